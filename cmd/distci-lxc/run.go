package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/image"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/lxc"
	"github.com/distci/distci/lib/sandbox/wire"
	"github.com/distci/distci/lib/tool"
)

// timedOut is the status of a program whose time was over, as in timeout(1).
const timedOut = 124

const workspace = "/workspace"

// flags are those of running a program.
type flags struct {
	image, rootfs, workspace, dir, network, user, state, initFile, stats *string
	images                                                               *string
	binds, env                                                           *[]string
	memory, disk                                                         size
	cpus, timeout, grace                                                 *float64
	pids                                                                 *int
	ids                                                                  *uint32
	readOnly, keep                                                       *bool
}

func addFlags(fs *pflag.FlagSet) *flags {
	f := &flags{}
	f.image = fs.String("image", "", "the root file system is the image `NAME`")
	f.rootfs = fs.String("rootfs", "", "the root file system is in `DIR`, which stays as it is")
	f.workspace = fs.String("workspace", "", "`DIR` is /workspace inside, and where the program starts")
	f.binds = fs.StringArray("bind", nil, "mount `SOURCE[:TARGET[:ro]]` of the host; may be repeated")
	f.dir = fs.String("dir", "", "the program starts in `DIR` of the container")
	f.env = fs.StringArray("env", nil, "set a variable, `NAME=VALUE`, or pass NAME on; may be repeated")
	f.network = fs.String("network", "none", "`none`, bridge[:NAME] or host")
	fs.Var(&f.memory, "memory", "limit memory to `BYTES`; K, M, G and T may follow")
	f.cpus = fs.Float64("cpus", 0, "limit the time of processors to that of `N`")
	f.pids = fs.Int("pids", 0, "limit processes and threads to `N`")
	fs.Var(&f.disk, "disk", "end it when it uses more than `BYTES` of disk")
	f.timeout = fs.Float64("timeout", 0, "end it after so many `SECONDS`; 0: never")
	f.grace = fs.Float64("grace", 10, "`SECONDS` from SIGTERM to SIGKILL")
	f.user = fs.String("user", "", "run as `USER` inside: UID, UID:GID or a name (default 1000:1000)")
	f.readOnly = fs.Bool("read-only", false, "make the root file system read-only")
	f.keep = fs.Bool("keep", false, "keep the changes to the root file system, and say where")
	f.stats = fs.String("stats", "", "write what the container used to `FILE`, as JSON")
	f.images = tool.Setting(fs, "images", "images", image.DefaultDir(), "images are in `DIR`")
	f.state = fs.String("state", "", "keep what containers need on disk in `DIR`")
	f.ids = fs.Uint32("first-id", 0, "containers get ids of the host from `ID` on")
	f.initFile = fs.String("init", "", "distci-init is `FILE`")
	return f
}

func runProgram(ctx context.Context, args []string, stdin, stdout, stderr *os.File) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SetInterspersed(false) // the program has options of its own
	tool.Describe(fs, "[options] -- PROGRAM [ARGUMENT…]", `Run a program in a fresh container, and end as it does. Other commands:

  image    Keep the root file systems of containers.
  check    Tell what is missing here for containers.
  reap     Remove what containers have left whose owners are dead.`)
	f := addFlags(fs)
	log, status := tool.ParseArgs(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	spec, err := f.spec(fs.Args())
	if err != nil {
		return tool.Fail(name, stderr, err)
	}
	spec.Stdin, spec.Stdout, spec.Stderr = stdin, stdout, stderr
	exe, err := os.Executable()
	if err != nil {
		return tool.Fail(name, stderr, fault.Wrap(fault.Internal, err))
	}
	sb, err := lxc.New(lxc.Options{Program: exe, Init: *f.initFile, Images: *f.images, State: *f.state, Root: *f.rootfs,
		IDs: *f.ids, Keep: *f.keep, NoCheck: true})
	if err != nil {
		return tool.Fail(name, stderr, err)
	}
	defer sb.Close()
	late := ctx
	if *f.timeout > 0 {
		var cancel context.CancelFunc
		late, cancel = context.WithTimeout(ctx, duration(*f.timeout))
		defer cancel()
	}
	result, stats, err := sb.RunStats(late, spec)
	if e := writeStats(*f.stats, stats); err == nil {
		err = e
	}
	switch {
	case err != nil:
		return tool.Fail(name, stderr, err)
	case result.OOM:
		log.Error("out of memory", "limit", spec.Limits.Memory, "peak", stats.PeakMemory)
	case result.Full:
		log.Error("too much disk is used", "limit", spec.Limits.Disk)
	case late.Err() != nil && ctx.Err() == nil:
		log.Error(fmt.Sprintf("ended after %g seconds", *f.timeout), "status", result.Status)
		result.Status = timedOut
	case ctx.Err() != nil:
		log.Error("interrupted", "status", result.Status)
	}
	if stats.Kept != "" {
		log.Info("the changes are in " + stats.Kept)
	}
	return result.Status
}

// spec is what the flags and arguments ask for.
func (f *flags) spec(args []string) (s sandbox.Spec, err error) {
	bad := func(format string, args ...any) (sandbox.Spec, error) {
		return sandbox.Spec{}, fault.Errorf(fault.Usage, format, args...)
	}
	switch {
	case len(args) == 0:
		return bad("no program is given")
	case (*f.image == "") == (*f.rootfs == ""):
		return bad("expected one of --image and --rootfs")
	case *f.pids < 0, !(*f.cpus >= 0 && *f.cpus < 1e6):
		return bad("--pids and --cpus cannot be negative")
	case f.memory > 0 && f.memory < minMemory:
		return bad("--memory: expected at least %d bytes, which a container needs", minMemory)
	case !(*f.timeout >= 0 && *f.timeout <= maxSeconds), !(*f.grace >= 0 && *f.grace <= maxSeconds):
		return bad("--timeout and --grace: expected 0 to %g seconds", float64(maxSeconds))
	}
	s = sandbox.Spec{Args: args, Dir: "/", Image: *f.image, ReadOnly: *f.readOnly, Network: *f.network, User: *f.user, Grace: duration(*f.grace),
		Limits: sandbox.Limits{Memory: int64(f.memory), CPUs: *f.cpus, Processes: *f.pids, Disk: int64(f.disk)}}
	if *f.workspace != "" {
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: *f.workspace, Target: workspace})
		s.Dir = workspace
	}
	for _, b := range *f.binds {
		m, err := parseBind(b)
		if err != nil {
			return s, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	for i := range s.Mounts {
		if s.Mounts[i].Source, err = filepath.Abs(s.Mounts[i].Source); err != nil {
			return s, fault.Wrap(fault.Usage, err)
		}
	}
	if *f.dir != "" {
		s.Dir = *f.dir
	}
	s.Env, err = environment(*f.env)
	return s, err
}

const (
	minMemory  = 8 << 20
	maxSeconds = 9e9 // what a time.Duration can hold, roughly
)

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func parseBind(s string) (sandbox.Mount, error) {
	parts := strings.Split(s, ":")
	m := sandbox.Mount{Source: parts[0], Target: parts[0]}
	if len(parts) > 1 {
		m.Target = parts[1]
	}
	if len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw") {
		m.ReadOnly = parts[2] == "ro"
	} else if len(parts) > 2 {
		return m, fault.Errorf(fault.Usage, "--bind: expected SOURCE[:TARGET[:ro]], found %q", s)
	}
	if !filepath.IsAbs(m.Target) {
		return m, fault.Errorf(fault.Usage, "--bind %s: inside, it needs an absolute path", s)
	}
	m.Target = filepath.Clean(m.Target)
	return m, nil
}

// environment is what was asked for. The rest is the image's.
func environment(vars []string) (env []string, err error) {
	for _, v := range vars {
		key, _, ok := strings.Cut(v, "=")
		if key == "" {
			return nil, fault.Errorf(fault.Usage, "--env: expected NAME=VALUE or NAME, found %q", v)
		}
		if !ok {
			value, set := os.LookupEnv(key)
			if !set {
				continue
			}
			v = key + "=" + value
		}
		env = append(env, v)
	}
	return env, nil
}

func writeStats(file string, stats wire.Stats) error {
	if file == "" {
		return nil
	}
	b, err := json.Marshal(stats)
	if err == nil {
		err = os.WriteFile(file, append(b, '\n'), 0o644)
	}
	return fault.Wrap(fault.Config, err)
}

// size is a flag of bytes.
type size int64

func (s *size) Type() string { return "bytes" }

func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}

func (s *size) Set(v string) error {
	digits := strings.TrimRight(strings.TrimSuffix(v, "B"), "KMGTi")
	exponent := strings.Index("KMGT", strings.TrimSuffix(strings.TrimSuffix(v[len(digits):], "B"), "i")) + 1
	n, err := strconv.ParseFloat(digits, 64)
	if unit := v[len(digits):]; unit == "" || unit == "B" {
		exponent = 0
	} else if exponent == 0 {
		err = strconv.ErrSyntax
	}
	n *= math.Pow(1024, float64(exponent))
	if err != nil || !(n >= 0 && n < 1<<62) {
		return fmt.Errorf("expected a number of bytes, as 512M, found %q", v)
	}
	*s = size(n)
	return nil
}
