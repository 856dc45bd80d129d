package source

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/file"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/distci/distci/lib/fault"
)

// access is an Access in use.
type access struct {
	Access
	log         *slog.Logger
	credentials []credential
	hidden      []string // secrets that were used
}

// credential is one line of the credentials file.
type credential struct {
	protocol, host, path, user, password string
}

func (a Access) open() (*access, error) {
	x := &access{Access: a, log: a.Log}
	if x.log == nil {
		x.log = slog.New(slog.DiscardHandler)
	}
	if a.CredentialsFile == "" {
		return x, nil
	}
	f, err := os.Open(a.CredentialsFile)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "credentials: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		u, err := url.Parse(line)
		if err != nil || u.Host == "" || u.User == nil { // err would show the line
			return nil, fault.Errorf(fault.Config, "credentials: %s:%d: expected https://user:password@host", a.CredentialsFile, n)
		}
		password, _ := u.User.Password()
		x.credentials = append(x.credentials, credential{
			u.Scheme, strings.ToLower(u.Host), strings.Trim(strings.TrimSuffix(u.Path, ".git"), "/"), u.User.Username(), password,
		})
	}
	if err := lines.Err(); err != nil {
		return nil, fault.Errorf(fault.Config, "credentials: %w", err)
	}
	return x, nil
}

// login finds the user and password for an http(s) location: those in its URL,
// or those of the first line of the credentials file that fits.
func (a *access) login(l location) (user, password string, ok bool) {
	if l.password != "" {
		return l.user, l.password, true
	}
	host := strings.ToLower(l.endpoint.Host)
	if p := l.endpoint.Port; p != 0 {
		host = net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(p))
	}
	path := strings.Trim(strings.TrimSuffix(l.endpoint.Path, ".git"), "/")
	for _, c := range a.credentials {
		if c.protocol == l.endpoint.Protocol && c.host == host &&
			(c.path == "" || c.path == path || strings.HasPrefix(path, c.path+"/")) && (l.user == "" || l.user == c.user) {
			return c.user, c.password, true
		}
	}
	return l.user, "", l.user != ""
}

// client makes what go-git needs to reach l. Nothing is taken from go-git's
// global registry of protocols.
func (a *access) client(l location) (transport.Transport, transport.AuthMethod, error) {
	a.hide(l.secrets()...)
	switch l.endpoint.Protocol {
	case "file":
		if _, err := exec.LookPath("git-upload-pack"); err != nil {
			if _, err := exec.LookPath("git"); err != nil {
				return nil, nil, fault.Errorf(fault.MissingTool, "a local repository needs git on this machine: %w", err)
			}
		}
		return file.DefaultClient, nil, nil
	case "ssh":
		auth, err := a.sshAuth(l)
		return gitssh.DefaultClient, auth, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = stall
	t.DisableKeepAlives = true // a fetch is two requests, and the client is not kept
	c := githttp.NewClient(&http.Client{Transport: t})
	user, password, ok := a.login(l)
	if !ok {
		return c, nil, nil
	}
	a.hide(password)
	return c, &githttp.BasicAuth{Username: user, Password: password}, nil
}

// hide makes blame mask these strings. Very short ones would mask half the
// text and protect nothing.
func (a *access) hide(secrets ...string) {
	for _, s := range secrets {
		if len(s) > 3 {
			a.hidden = append(a.hidden, s, url.PathEscape(s), url.QueryEscape(s))
		}
	}
}

func (a *access) mask(s string) string {
	s = maskUserinfo(s)
	for _, h := range a.hidden {
		s = strings.ReplaceAll(s, h, "***")
	}
	return s
}

// sshLogin is go-git's ssh.AuthMethod.
type sshLogin struct{ config ssh.ClientConfig }

func (s *sshLogin) Name() string   { return "ssh-public-key" }
func (s *sshLogin) String() string { return "ssh-public-key for " + s.config.User }
func (s *sshLogin) ClientConfig() (*ssh.ClientConfig, error) {
	c := s.config
	return &c, nil
}

func (a *access) sshAuth(l location) (transport.AuthMethod, error) {
	hosts, err := a.knownHosts()
	if err != nil {
		return nil, err
	}
	methods, err := a.sshMethods()
	if err != nil {
		return nil, err
	}
	if l.password != "" {
		methods = append(methods, ssh.Password(l.password))
	}
	port := l.endpoint.Port
	if port == 0 {
		port = gitssh.DefaultPort
	}
	addr := net.JoinHostPort(strings.Trim(l.endpoint.Host, "[]"), strconv.Itoa(port))
	return &sshLogin{ssh.ClientConfig{
		User:              l.endpoint.User,
		Auth:              methods,
		HostKeyCallback:   hosts.HostKeyCallback(),
		HostKeyAlgorithms: hosts.HostKeyAlgorithms(addr),
		Timeout:           30 * time.Second,
	}}, nil
}

func (a *access) knownHosts() (*knownhosts.HostKeyDB, error) {
	files := []string{a.KnownHosts}
	if a.KnownHosts == "" {
		files = nil
		home, _ := os.UserHomeDir()
		for _, f := range []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"} {
			if _, err := os.Stat(f); err == nil {
				files = append(files, f)
			}
		}
	}
	if len(files) == 0 {
		return nil, fault.Errorf(fault.Config, "ssh: no known_hosts file, so no host can be trusted")
	}
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "ssh: known hosts: %w", err)
	}
	return db, nil
}

// sshMethods offers the given key, or what the user's agent and folder have.
func (a *access) sshMethods() ([]ssh.AuthMethod, error) {
	if a.SSHKey != "" {
		signer, err := readKey(a.SSHKey)
		if err != nil {
			return nil, fault.Errorf(fault.Config, "ssh: key %s: %w", a.SSHKey, err)
		}
		return []ssh.AuthMethod{ssh.PublicKeys(signer)}, nil
	}
	if conn, err := net.Dial("unix", os.Getenv("SSH_AUTH_SOCK")); err == nil {
		return []ssh.AuthMethod{ssh.PublicKeysCallback(agent.NewClient(conn).Signers)}, nil
	}
	var signers []ssh.Signer
	home, _ := os.UserHomeDir()
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		if s, err := readKey(filepath.Join(home, ".ssh", name)); err == nil {
			signers = append(signers, s)
		}
	}
	return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, nil
}

func readKey(name string) (ssh.Signer, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	s, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, errors.New("it has a passphrase, which nobody is there to enter")
	}
	return s, err
}

// blame gives err its kind and hides secrets in it.
func (a *access) blame(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	k := kindOf(ctx, err)
	text := a.mask(err.Error())
	if text == err.Error() {
		return fault.Errorf(k, "%s: %w", what, err)
	}
	return fault.Errorf(k, "%s: %s", what, text)
}
