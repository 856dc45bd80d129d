package source_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source"
)

const secret = "s3same/open"

// TestCredentials: passwords from a file and from the URL work, and are seen
// nowhere: not in the log, the errors, the workspace or the mirror.
func TestCredentials(t *testing.T) {
	r := sample(t)
	server := serve(t, filepath.Dir(r.dir), secret)
	url := server.URL + "/origin/.git"
	host := strings.TrimPrefix(server.URL, "http://")
	file := filepath.Join(t.TempDir(), "credentials")
	write(t, file, "# a comment\nhttps://u:wrong@"+host+"\nhttp://u:wrong@elsewhere\n\nhttp://u:s3same%2Fopen@"+host+"\n")
	for name, o := range map[string]source.Options{
		"file":         {Repository: url, Access: source.Access{CredentialsFile: file}},
		"file, user":   {Repository: strings.Replace(url, "//", "//u@", 1), Access: source.Access{CredentialsFile: file}},
		"URL":          {Repository: strings.Replace(url, "//", "//u:s3same%2Fopen@", 1)},
		"URL and file": {Repository: strings.Replace(url, "//", "//u:s3same%2Fopen@", 1), Access: source.Access{CredentialsFile: file}},
	} {
		t.Run(name, func(t *testing.T) {
			log, text := logged()
			o.Log, o.Dir, o.Mirror, o.Progress = log, t.TempDir(), t.TempDir(), text
			c := checkout(t, o)
			sameAsGit(t, r.dir, c.Hash, o.Dir)
			_, err := source.Checkout(t.Context(), source.Options{Repository: strings.Replace(o.Repository, "origin", "none", 1),
				Access: o.Access, Dir: t.TempDir()})
			wantFault(t, err, fault.Unavailable)
			if strings.Contains(text.String()+err.Error(), "s3same") {
				t.Errorf("the password is shown: %s %v", text, err)
			}
			for _, dir := range []string{o.Dir, o.Mirror} {
				if out, err := exec.Command("grep", "-rl", "s3same", dir).Output(); err == nil {
					t.Errorf("the password is in %s", out)
				}
			}
		})
	}
	_, err := source.Checkout(t.Context(), source.Options{Repository: strings.Replace(url, "//", "//other@", 1), Dir: t.TempDir(),
		Access: source.Access{CredentialsFile: file}})
	wantFault(t, err, fault.Denied)
	for text, says := range map[string]string{"https://host-without-user\n": ":1:", "x\nhttp://u:s3same": ":1:", "http://u:s3same\x7f@h": ":1:"} {
		write(t, file, text)
		_, err = source.Checkout(t.Context(), source.Options{Repository: url, Dir: t.TempDir(), Access: source.Access{CredentialsFile: file}})
		wantFault(t, err, fault.Config, file, says)
		if strings.Contains(err.Error(), "s3same") {
			t.Errorf("the password is shown: %v", err)
		}
	}
}

// sshServer runs git-upload-pack for whoever has the key, and returns its
// address and host key.
func sshServer(t *testing.T, client ssh.PublicKey) (addr string, host ssh.PublicKey) {
	t.Helper()
	signer, _ := newKey(t)
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != "git" || !bytes.Equal(k.Marshal(), client.Marshal()) {
			return nil, errors.New("who are you?")
		}
		return nil, nil
	}}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, channels, requests, err := ssh.NewServerConn(conn, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				for c := range channels {
					ch, reqs, err := c.Accept()
					if err != nil {
						return
					}
					go func() {
						for req := range reqs {
							var command struct{ Line string }
							ssh.Unmarshal(req.Payload, &command)
							req.Reply(req.Type == "exec", nil)
							if req.Type != "exec" || !strings.HasPrefix(command.Line, "git-upload-pack ") {
								continue
							}
							cmd := exec.Command("sh", "-c", command.Line)
							cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
							stdin, err := cmd.StdinPipe() // Run does not wait for its end
							if err != nil {
								return
							}
							go func() { io.Copy(stdin, ch); stdin.Close() }()
							status := struct{ Status uint32 }{}
							if cmd.Run() != nil {
								status.Status = 128
							}
							ch.SendRequest("exit-status", false, ssh.Marshal(status))
							ch.Close()
						}
					}()
				}
			}()
		}
	}()
	return l.Addr().String(), signer.PublicKey()
}

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer, name
}

func TestSSH(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	r := sample(t)
	signer, key := newKey(t)
	_, stranger := newKey(t)
	addr, host := sshServer(t, signer.PublicKey())
	known := filepath.Join(t.TempDir(), "known_hosts")
	write(t, known, knownhosts.Line([]string{addr}, host)+"\n")
	wrong := filepath.Join(t.TempDir(), "known_hosts")
	write(t, wrong, knownhosts.Line([]string{addr}, signer.PublicKey())+"\n")
	none := filepath.Join(t.TempDir(), "known_hosts")
	write(t, none, "")
	_, port, _ := net.SplitHostPort(addr)
	url := "ssh://git@" + addr + r.dir
	for _, c := range []struct {
		url, key, known string
		kind            fault.Kind
	}{
		{url, key, known, fault.None},
		{"ssh://" + addr + r.dir, key, known, fault.None},
		{"git@127.0.0.1:" + port + ":" + r.dir, key, known, fault.None},
		{url, stranger, known, fault.Denied},
		{url, key, wrong, fault.Denied},
		{url, key, none, fault.Denied},
		{url, key, "/does/not/exist", fault.Config},
		{url, "/does/not/exist", known, fault.Config},
		{url, "", known, fault.Denied},
		{url + "/none", key, known, fault.Unavailable},
	} {
		dir := t.TempDir()
		got, err := source.Checkout(t.Context(), source.Options{Repository: c.url, Dir: dir,
			Access: source.Access{SSHKey: c.key, KnownHosts: c.known, Mirror: t.TempDir()}})
		if fault.Of(err) != c.kind {
			t.Errorf("%s, %s, %s: kind %q, want %q: %v", c.url, c.key, c.known, fault.Of(err), c.kind, err)
		} else if err == nil {
			sameAsGit(t, r.dir, got.Hash, dir)
		}
	}
	write(t, filepath.Join(os.Getenv("HOME"), ".ssh/known_hosts"), knownhosts.Line([]string{addr}, host)+"\n")
	b, _ := os.ReadFile(key)
	write(t, filepath.Join(os.Getenv("HOME"), ".ssh/id_ed25519"), string(b))
	checkout(t, source.Options{Repository: url, Dir: t.TempDir()})
}
