package worker

import (
	"cmp"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/secret"
	"github.com/distci/distci/lib/ticket"
)

// Tools is what a worker can run.
type Tools struct {
	Path         []string        // folders in which the tools are
	Program      []string        // run this instead of the tool by type
	Labels       []string        // offered as nodelabel_<label>
	Capabilities []string        // offered besides; with Program, all that is offered
	PassEnv      []string        // variables of the worker that its steps get
	Image        string          // of steps that name none, where the sandbox has images
	Images       func() []string // capabilities by the images that there are; nil: none
	Grants       Grants          // what tools get that run none of the job's code
	Networks     []string        // that steps may ask for, besides none
	Secrets      *secret.Vault   // that steps may ask for; nil: none
}

// stepEnv are the variables of the worker that a step gets in any case.
var stepEnv = []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
	"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// notTools begin with distci- too.
var notTools = []string{"distci-claim", "distci-frontend", "distci-init", "distci-observe", controlProgram, "distci-lxc", "distci-buildctl-ceph", "distci-claim-ceph", "distci-frontend-ceph"}

// Offer lists the capabilities that tickets may ask for: of every type for
// which there is a tool now, and the labels.
func (t *Tools) Offer() []string {
	offer := slices.Clone(t.Capabilities)
	if len(t.Program) == 0 {
		for _, dir := range t.Path {
			names, _ := filepath.Glob(filepath.Join(dir, "distci-*"))
			for _, name := range names {
				tool := filepath.Base(name)
				if info, err := os.Stat(name); err != nil || info.Mode()&0o111 == 0 || !info.Mode().IsRegular() || slices.Contains(notTools, tool) {
					continue
				}
				offer = append(offer, ticket.Capability(ticket.TypeOf(tool)))
			}
		}
	}
	if t.Images != nil {
		offer = append(offer, t.Images()...)
	}
	for _, l := range t.Labels {
		offer = append(offer, "nodelabel_"+l)
	}
	slices.Sort(offer)
	return slices.Compact(offer)
}

// Command is the program for tickets of a type. Errors are of kind
// MissingTool.
func (t *Tools) Command(typ string) ([]string, error) {
	if len(t.Program) > 0 {
		return t.Program, nil
	}
	tool := ticket.Tool(typ)
	for _, dir := range t.Path {
		path := filepath.Join(dir, tool)
		if !executable(path) {
			continue
		}
		if typ == controlType {
			path = lighter(path)
		}
		return []string{path}, nil
	}
	return nil, fault.Errorf(fault.MissingTool, "worker: no %s in %s", tool, strings.Join(t.Path, ":"))
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o111 != 0 && info.Mode().IsRegular()
}

// lighter is what runs instead of distci-buildctl, if it was installed beside
// it: the same tool without the commands for people, whose libraries take
// longer to start than an answer takes.
func lighter(buildctl string) string {
	dir := filepath.Dir(buildctl)
	for _, place := range []string{".", "libexec", "../libexec/distci"} {
		if path := filepath.Join(dir, place, controlProgram); executable(path) {
			return path
		}
	}
	return buildctl
}

const controlProgram = "distci-control"

// Where a tool finds what it needs, in a sandbox that has a file system of its
// own.
const (
	insideWorkspace = "/workspace"
	insideTools     = "/run/distci/bin"
	insideAPI       = "/run/distci/api"
)

// Spec says how the tool with these arguments is run for t: in which
// environment, with which files of the host. Folder tmp is for temporary files
// where the sandbox has none of its own, dir for the tool to start in.
func (t *Tools) Spec(sb sandbox.Sandbox, tk *ticket.Ticket, args []string, workspace, dir, tmp string) sandbox.Spec {
	ws := sandbox.Mount{Source: workspace, Target: insideWorkspace}
	s := sandbox.Spec{Args: slices.Clone(args), Dir: dir, Mounts: []sandbox.Mount{ws}, Image: cmp.Or(tk.Image, t.Image)}
	s.Env = []string{"CI=true", "DISTCI_WORKSPACE=" + sb.Inside(ws)}
	pass := t.PassEnv
	if contained := sb.Inside(ws) != workspace; contained {
		s.Dir = sb.Inside(ws)
		// The PATH is the image's.
		s.Env = append(s.Env, "HOME=/tmp", "LANG=C.UTF-8")
	} else {
		s.Env = append(s.Env, "TMPDIR="+tmp)
		pass = slices.Concat(stepEnv, pass)
	}
	if path := args[0]; filepath.IsAbs(path) {
		tool := sandbox.Mount{Source: path, Target: insideTools + "/" + filepath.Base(path), ReadOnly: true}
		s.Mounts = append(s.Mounts, tool)
		s.Args[0] = sb.Inside(tool)
	}
	for _, name := range pass {
		if v, ok := os.LookupEnv(name); ok {
			s.Env = append(s.Env, name+"="+v)
		}
	}
	grant := t.Grants[tk.Type]
	mounts, env := grant.mounts(sb)
	s.Mounts, s.Env, s.Network = append(s.Mounts, mounts...), append(s.Env, env...), grant.Network
	return s
}

// NeedsAPI tells whether tools of a type speak REST. Those that are run most
// often do not.
func (t *Tools) NeedsAPI(typ string) bool {
	return typ != "execute-shell" && typ != "git-checkout" && typ != controlType && typ != ticket.CommitStatus
}

// serve serves h on a unix socket that only this user can reach. The name is
// short: a socket's must be.
func serve(h http.Handler) (path string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "distci-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, "api")
	l, err := net.Listen("unix", path)
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, err
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	return path, func() {
		srv.Close()
		<-done
		os.RemoveAll(dir)
	}, nil
}

// ToolPath splits a list of folders; an empty one is the folder of this
// program, then those of PATH.
func ToolPath(list string) []string {
	if list != "" {
		return filepath.SplitList(list)
	}
	var dirs []string
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe))
	}
	return append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
}
