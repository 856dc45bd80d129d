// Package lab runs the real programs, as processes, for tests.
package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Main is a TestMain: it builds the programs and runs the tests. The folder
// with the programs is put into *bin.
func Main(m *testing.M, bin *string) {
	dir, err := os.MkdirTemp("", "distci-programs-")
	if err == nil {
		*bin = dir
		var out []byte
		cmd := exec.Command("go", "build", "-o", dir, "github.com/distci/distci/cmd/...")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// Dir makes a temporary folder with a short name. It is removed with the
// test; if that has failed, the logs in it are shown before.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "distci-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(dir + "/*.log")
			for _, l := range logs {
				b, _ := os.ReadFile(l)
				t.Logf("%s:\n%s", filepath.Base(l), b)
			}
		}
		exec.Command("chmod", "-R", "u+rwx", dir).Run()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("what the test has left: %v", err)
		}
	})
	return dir
}

// Env is the environment of a program: this process's without the settings
// of the person who runs the tests. Everything that a program writes by
// default is below dir.
func Env(bin, dir string, more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "DISTCI_") && !strings.HasPrefix(e, "XDG_") {
			env = append(env, e)
		}
	}
	env = append(env, "PATH="+bin+":"+os.Getenv("PATH"), "XDG_CONFIG_HOME="+dir+"/config",
		"XDG_STATE_HOME="+dir+"/state", "XDG_CACHE_HOME="+dir+"/cache", "DISTCI_IMAGES="+dir+"/images")
	return append(env, more...)
}

// Proc is a process under test.
type Proc struct {
	*exec.Cmd
	Done chan struct{} // closed when it has ended
	log  string
}

// Start starts a process, whose standard error goes to a file name-*.log in
// dir. It is interrupted at the test's end, if it is still there; it ends with
// the test's process.
func Start(t testing.TB, s *Spawner, dir, name string, cmd *exec.Cmd) *Proc {
	t.Helper()
	f, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &Proc{Cmd: cmd, log: f.Name(), Done: make(chan struct{})}
	p.Stderr, p.Dir = f, dir
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.Wait()
		close(p.Done)
	}()
	t.Cleanup(func() { p.End(syscall.SIGINT) })
	return p
}

// Kill ends the process as a power cut would.
func (p *Proc) Kill() {
	p.Process.Kill()
	<-p.Done
}

// End asks the process with a signal to end, and waits until it has. One that
// does not is killed, and the result is false.
func (p *Proc) End(s os.Signal) bool {
	p.Process.Signal(syscall.SIGCONT)
	p.Process.Signal(s)
	select {
	case <-p.Done:
		return true
	case <-time.After(20 * time.Second):
		p.Kill()
		return false
	}
}

// Said is what the process has written to its standard error.
func (p *Proc) Said() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// Status waits for the process to end.
func (p *Proc) Status() int {
	<-p.Done
	return p.ProcessState.ExitCode()
}

// Until waits for a condition; the limit is for a test that hangs.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	pause := time.Millisecond
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(pause) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// Related lists the processes that have to do with a folder: by their command
// line, working directory or environment.
func Related(dir string) (list []string) {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		if e == fmt.Sprint("/proc/", os.Getpid()) {
			continue
		}
		line, _ := os.ReadFile(e + "/cmdline")
		env, _ := os.ReadFile(e + "/environ")
		cwd, _ := os.Readlink(e + "/cwd")
		if bytes.Contains(line, []byte(dir)) || bytes.Contains(env, []byte(dir)) || strings.HasPrefix(cwd, dir) {
			list = append(list, filepath.Base(e)+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return list
}
