package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox/wire"
)

// childless is how long LXC's monitor may be without a living child while it
// starts one. If that child is killed at a bad moment, LXC waits for it for
// ever, as the monitor itself holds the other end of the socket between them.
const childless = 3 * time.Second

// startGuarded starts the container, and gives up when LXC hangs, or when the
// worker is gone or wants an end at once.
func (r *run) startGuarded(stop <-chan wire.Stop) (c container, err error) {
	type outcome struct {
		c   container
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		c, err := start(r.slot.name, r.req.State, r.config(), []string{initPath, socketPath})
		done <- outcome{c, err}
	}()
	begun := time.Now()
	alive := time.Time{} // when that child was last seen: on a busy machine it is long in coming
	gaveUp := ""
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case o := <-done:
			switch {
			case gaveUp == "":
				return o.c, o.err
			case o.err == nil:
				o.c.release()
			}
			return nil, fault.Errorf(fault.Temporary, "the container did not start: %s", gaveUp)
		case _, ok := <-stop:
			stop = nil // nothing runs yet that could be asked to end
			gaveUp = "it is not wanted any more"
			if !ok {
				gaveUp = "the worker is gone"
			}
		case <-tick.C:
			has, works := monitorsChild()
			switch {
			case time.Since(begun) > startLimit:
				gaveUp = "LXC takes too long"
			case works, has && alive.IsZero():
				alive = time.Now()
			case !alive.IsZero() && time.Since(alive) > childless:
				gaveUp = "LXC waits for a process that is dead"
			}
		}
		if gaveUp != "" {
			for _, pid := range childrenOf(os.Getpid()) {
				unix.Kill(pid, unix.SIGKILL) // with it dies what it has started
			}
		}
	}
}

// monitorsChild tells whether a child of this process has a child, and whether
// that lives.
func monitorsChild() (has, lives bool) {
	for _, pid := range childrenOf(os.Getpid()) {
		for _, grandchild := range childrenOf(pid) {
			has = true
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", grandchild))
			if i := strings.LastIndexByte(string(b), ')'); i >= 0 && !strings.HasPrefix(string(b[i:]), ") Z") {
				return true, true
			}
		}
	}
	return has, false
}

func childrenOf(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for word := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(word); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}
