package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// bench is one measurement's folder, with the processes that it has started.
type bench struct {
	dir   string
	coord string // the coordination's address
	store string // the store's; "": a folder in dir
	label string // before the names of rows
	short bool   // a little of each: to see that it runs
	procs []*exec.Cmd
}

// some is n, or less where it is only to be seen that the measurement runs.
func (b *bench) some(n, less int) int {
	if b.short {
		return less
	}
	return n
}

// address is the store's.
func (b *bench) address() string {
	if b.store == "" {
		return "dir:" + b.dir + "/store"
	}
	return b.store
}

func (b *bench) close() {
	for _, p := range b.procs {
		p.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range b.procs {
		p.Wait()
	}
	os.RemoveAll(b.dir)
}

func program(name string) string {
	path, err := filepath.Abs(filepath.Join("bin", name))
	if err != nil {
		panic(err)
	}
	return path
}

func (b *bench) env() []string {
	env := append(slicesWithout(os.Environ(), "DISTCI_"), "DISTCI_SANDBOX=plain")
	return append(env, "DISTCI_COORD="+b.coord, "DISTCI_STORE="+b.address(), "XDG_CONFIG_HOME="+b.dir+"/config")
}

func slicesWithout(env []string, prefix string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, prefix) {
			out = append(out, e)
		}
	}
	return out
}

func (b *bench) start(name string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(b.dir, fmt.Sprintf("%s-%d.log", name, len(b.procs))))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program(name), args...)
	cmd.Env, cmd.Stderr = b.env(), log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.procs = append(b.procs, cmd)
	return cmd, nil
}

// frontend starts a frontend and returns a client of it.
func (b *bench) frontend() (*client.Client, error) {
	port := filepath.Join(b.dir, "port")
	if _, err := b.start("distci-frontend", "--listen", "127.0.0.1:0", "--port-file", port); err != nil {
		return nil, err
	}
	for range 500 {
		if p, err := os.ReadFile(port); err == nil {
			return client.New("http://127.0.0.1:"+strings.TrimSpace(string(p)), client.Options{})
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.New("the frontend does not start")
}

// url is where the frontend is that was started last.
func (b *bench) url() (string, error) {
	port, err := os.ReadFile(filepath.Join(b.dir, "port"))
	return "http://127.0.0.1:" + strings.TrimSpace(string(port)), err
}

// worker starts a worker.
func (b *bench) worker(args ...string) (*exec.Cmd, error) {
	return b.start("distci-claim", append([]string{"--loop", "--state", filepath.Join(b.dir, fmt.Sprintf("worker-%d", len(b.procs)))}, args...)...)
}

// job sets a job of shell scripts.
func (b *bench) job(c *client.Client, id string, scripts ...string) error {
	var tasks []string
	for _, s := range scripts {
		tasks = append(tasks, fmt.Sprintf(`{"type":"execute-shell","params":{"script":%q}}`, s))
	}
	return c.PutJob(context.Background(), id, fmt.Appendf(nil, `{"job_id":%q,"tasks":[%s]}`, id, strings.Join(tasks, ",")))
}

// finish waits until a build is finished, and returns its record.
func finish(c *client.Client, job string, n ticket.Number) (*build.State, error) {
	for range 6000 {
		s, err := c.Build(context.Background(), job, n)
		if err != nil {
			return nil, err
		}
		if s.Status == build.Complete {
			if s.Result != ticket.Success {
				return nil, fmt.Errorf("%s #%d: %s", job, n, s.Result)
			}
			return s, nil
		}
		time.Sleep(100 * time.Millisecond) // looking costs, too
	}
	return nil, fmt.Errorf("%s #%d does not end", job, n)
}
