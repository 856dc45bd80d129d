package plain

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The watchdog is a second process of this program, one for all that a Sandbox
// runs. It reads a pipe whose other end only this process has, so that the
// pipe's end means that this process is gone, however it died. Then it kills
// every process that carries the Sandbox's mark or is in the session of one of
// its programs: "+PID" and "-PID" in the pipe say which those are.

// watchdogName is the name under which this program is a watchdog.
const watchdogName = "distci-watchdog"

// init becomes the watchdog in every program that can have a Sandbox. Would
// main have to ask for it, one that forgets would start itself for ever.
func init() {
	if len(os.Args) == 2 && os.Args[0] == watchdogName {
		signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
		killAll(os.Args[1], readSessions(os.Stdin))
		os.Exit(0)
	}
}

type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

func startWatchdog(id string) (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{watchdogName, id}, Env: []string{"GOMAXPROCS=1"}, Dir: "/", Stdin: r,
		// In a group of its own it is spared what is meant for ours, a ^C; in
		// our session it is not taken for an orphan.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("starting the watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: w}, nil
}

// alive asks the kernel, as a watchdog that was killed leaves a zombie.
func (w *watchdog) alive() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, w.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
	return err == nil && info.Signo == 0
}

// add and remove may fail if the watchdog was just killed; the next program
// that is started gets another.
func (w *watchdog) add(pid int)    { fmt.Fprintf(w.pipe, "+%d\n", pid) }
func (w *watchdog) remove(pid int) { fmt.Fprintf(w.pipe, "-%d\n", pid) }

func (w *watchdog) close() {
	w.pipe.Close()
	w.cmd.Wait()
}

// readSessions reads until the end of the pipe and returns what runs then.
func readSessions(pipe io.Reader) map[int]bool {
	sessions := map[int]bool{}
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		line := lines.Text()
		if pid, err := strconv.Atoi(strings.TrimLeft(line, "+-")); err == nil {
			if line[0] == '+' {
				sessions[pid] = true
			} else {
				delete(sessions, pid)
			}
		}
	}
	return sessions
}

// killAll kills until nothing is left.
func killAll(id string, sessions map[int]bool) {
	for quiet := 0; quiet < 2; {
		quiet++
		pids, err := numbers("/proc")
		if err != nil {
			return
		}
		for _, pid := range pids {
			p, ok := readProcess(pid)
			if !ok || p.zombie {
				continue
			}
			mark, _ := markOf(pid)
			if (sessions[p.session] || strings.HasPrefix(mark, id+".")) && unix.Kill(pid, unix.SIGKILL) == nil {
				quiet = 0
			}
		}
		time.Sleep(5 * time.Millisecond) // for them to die, and to see what they forked before
	}
}
