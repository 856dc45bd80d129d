package local

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// gate lets one writer in at a time: a token among the goroutines of this
// connection, a blocking flock among processes. SQLite's own way, to sleep and
// to try again, costs a third of the transactions. Writing to the gate's file
// wakes the processes that watch.
type gate struct {
	file   *os.File
	token  chan struct{} // holds one value when free
	closed atomic.Bool
}

func openGate(path string) (*gate, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	g := &gate{file: f, token: make(chan struct{}, 1)}
	g.token <- struct{}{}
	return g, nil
}

// lock waits until it is this goroutine's turn, at most until ctx ends or the
// limit has passed. Nothing was changed if it fails.
func (g *gate) lock(ctx context.Context, limit time.Duration, done <-chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("coord: %w", err)
	}
	select {
	case <-g.token: // the usual case costs no timer
		if err := g.try(); err == nil {
			return nil
		}
		g.token <- struct{}{}
	default:
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	fail := func() error {
		select {
		case <-done:
			return errClosed
		default:
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("coord: waiting to write: %w", err)
		}
		return fault.Errorf(fault.Temporary, "coord: %s: %s has kept the lock for %v; nothing was changed", g.file.Name(), g.holder(), limit)
	}
	select {
	case <-g.token:
	case <-timer.C:
		return fail()
	case <-ctx.Done():
		return fail()
	case <-done:
		return fail()
	}
	got := make(chan error)
	abandoned := make(chan struct{})
	go g.wait(got, abandoned)
	select {
	case err := <-got:
		if err != nil {
			g.token <- struct{}{}
			return fault.Errorf(fault.Internal, "coord: %s: flock: %w", g.file.Name(), err)
		}
		return nil
	case <-timer.C:
	case <-ctx.Done():
	case <-done:
	}
	close(abandoned)
	return fail()
}

// wait waits for the flock, which nothing can interrupt, and hands it over. If
// nobody waits any more it gives it back; until then this connection has no
// other writer, because the lock belongs to the open file.
func (g *gate) wait(got chan<- error, abandoned <-chan struct{}) {
	err := g.queue()
	select {
	case got <- err:
	case <-abandoned:
		g.unlock()
		if g.closed.Load() {
			g.file.Close()
		}
	}
}

// The flock alone is unfair: a process that writes without a pause has it back
// before the others have woken up. So who waits for it holds the turnstile, a
// record lock of the same file, and who finds that shut lets the other go
// first. It is a courtesy with a bound: a stopped process that keeps the
// turnstile slows the others down, but does not stop them.
const (
	courtesy     = 5
	courtesyStep = 200 * time.Microsecond
)

// turnstile shuts (F_WRLCK) or opens (F_UNLCK) the turnstile.
func (g *gate) turnstile(typ int16) error {
	return unix.FcntlFlock(g.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: typ, Len: 1})
}

// try takes the lock if nobody has it or waits for it.
func (g *gate) try() error {
	if err := g.turnstile(unix.F_WRLCK); err != nil {
		return err
	}
	err := unix.Flock(int(g.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	g.turnstile(unix.F_UNLCK)
	return err
}

// queue takes the lock when it is this connection's turn.
func (g *gate) queue() error {
	for range courtesy {
		if g.turnstile(unix.F_WRLCK) == nil {
			break
		}
		// Not time.Sleep, whose step may be a millisecond.
		pause := unix.NsecToTimespec(int64(courtesyStep))
		unix.Nanosleep(&pause, nil)
	}
	err := unix.EINTR
	for err == unix.EINTR {
		err, _ = unix.Flock(int(g.file.Fd()), unix.LOCK_EX).(unix.Errno)
	}
	g.turnstile(unix.F_UNLCK)
	if err != 0 {
		return err
	}
	return nil
}

// unlock lets the next one in.
func (g *gate) unlock() {
	unix.Flock(int(g.file.Fd()), unix.LOCK_UN)
	g.token <- struct{}{}
}

// close frees the gate's file, or leaves that to the goroutine that still waits
// for a stopped process.
func (g *gate) close() error {
	g.closed.Store(true)
	select {
	case <-g.token:
		return g.file.Close()
	default:
		return nil
	}
}

// poke wakes the processes that watch the gate's file. It is only a hint,
// they also look on their own now and then.
func (g *gate) poke() { g.file.WriteAt([]byte{'\n'}, 0) }

// holder names the process that holds the flock, as far as the kernel tells.
func (g *gate) holder() string {
	var st unix.Stat_t
	locks, err := os.ReadFile("/proc/locks")
	if err != nil || unix.Fstat(int(g.file.Fd()), &st) != nil {
		return "another process"
	}
	// 3: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
	inode := fmt.Sprintf(":%d", st.Ino)
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], inode) {
			return "process " + f[4] + " (is it stopped?)"
		}
	}
	return "another process"
}
