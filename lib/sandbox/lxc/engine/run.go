package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/wire"
)

const (
	startLimit = 30 * time.Second // for PID 1 to call, on a machine that is very busy
	dieLimit   = 20 * time.Second // for a container that was killed
)

// run is one container.
type run struct {
	*engine
	req     wire.Request
	spec    wire.Spec
	image   string // a folder
	root    bool   // we are
	dir     string // for what it needs on disk
	uid     uint32 // of the program, inside
	gid     uint32
	mounts  []mount
	network []item
	groups  []string // control groups, to be removed
	partly  bool     // there may be others
	disk    *disk
	stats   wire.Stats
}

// contain runs one program in a fresh container. The program's streams are files.
// When stop is closed, or something comes from it, the program is ended. After
// an error the engine is not to be used any more.
func (e *engine) contain(ctx context.Context, req wire.Request, stop <-chan wire.Stop, files [3]*os.File) (result sandbox.Result, stats wire.Stats, err error) {
	r := &run{engine: e, req: req, spec: req.Spec, root: os.Geteuid() == 0, image: req.Root}
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(r.hasten)
	if err := r.prepare(); err != nil {
		r.remove()
		return result, stats, err
	}
	result, err = r.run(ctx, stop, files)
	begun := time.Now()
	if e := r.remove(); err == nil {
		err = e
	}
	r.stats.Stop += time.Since(begun).Seconds()
	return result, r.stats, err
}

// prepare makes all that the container needs.
func (r *run) prepare() (err error) {
	if r.image == "" {
		return fault.Errorf(fault.Config, "no image and no root file system given")
	}
	if r.image, err = filepath.Abs(r.image); err != nil {
		return fault.Wrap(fault.Config, err)
	}
	if r.image, err = filepath.EvalSymlinks(r.image); err != nil {
		return fault.Wrap(fault.Config, err)
	}
	if r.uid, r.gid, err = parseUser(r.spec.User, r.image); err != nil {
		return err
	}
	if r.slot == nil {
		if r.slot, err = takeSlot(r.req.Ids, r.cgroups); err != nil {
			return err
		}
	}
	if r.network, err = networkConfig(r.spec.Network, r.slot.number); err != nil {
		return err
	}
	if err := makeState(r.req.State); err != nil {
		return err
	}
	r.dir = filepath.Join(r.req.State, r.slot.name)
	if err := erase(r.dir); err != nil { // of before a power loss, which took the slot's note
		return fault.Wrap(fault.Temporary, err)
	}
	if err := r.slot.note(holding{Name: r.slot.name, Dir: r.dir}); err != nil {
		return fault.Wrap(fault.Temporary, err)
	}
	if err := os.Mkdir(r.dir, 0o711); err != nil {
		return fault.Wrap(fault.Temporary, err)
	}
	if err := r.prepareRoot(); err != nil {
		return fault.Wrap(fault.Temporary, err)
	}
	return fault.Wrap(fault.Temporary, r.prepareMounts())
}

// makeState makes the folder for containers. Their roots must be able to pass
// through it, and nobody else to look into it.
func makeState(dir string) error {
	if !filepath.IsAbs(dir) {
		return fault.Errorf(fault.Config, "the state folder must be an absolute path, not %q", dir)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fault.Wrap(fault.Config, err)
	}
	return nil
}

// remove leaves nothing, once the container is gone.
func (r *run) remove() error {
	if r.dir == "" {
		return nil
	}
	if r.root {
		_ = unix.Unmount(r.points(), unix.MNT_DETACH)
	}
	h := holding{Name: r.slot.name, Dir: r.dir, Cgroups: r.groups}
	if r.req.Keep {
		kept := fmt.Sprintf("%s.kept.%d", r.dir, time.Now().UnixNano())
		if err := os.Rename(filepath.Join(r.dir, "root"), kept); err == nil {
			r.stats.Kept = filepath.Join(kept, "upper")
		}
	}
	if len(r.groups) == 0 || r.partly { // it did not start, or not well
		if err := r.slot.note(h); err != nil {
			return fault.Wrap(fault.Temporary, err)
		}
		return fault.Wrap(fault.Temporary, r.slot.clean(r.cgroups))
	}
	return fault.Wrap(fault.Temporary, r.slot.remove(h))
}

// run starts the container, has PID 1 run the program, and waits for the end
// of both.
func (r *run) run(ctx context.Context, stop <-chan wire.Stop, files [3]*os.File) (result sandbox.Result, err error) {
	begun := time.Now()
	r.stats.Container, r.stats.IDs = r.slot.name, r.slot.ids
	listener, err := r.listen()
	if err != nil {
		return result, fault.Wrap(fault.Temporary, err)
	}
	defer listener.Close()
	c, end, err := r.startGuarded(listener, stop)
	if err != nil {
		return result, r.explain(err)
	}
	defer c.release()
	gone := func() error {
		at := time.Now()
		defer func() { r.stats.Stop += time.Since(at).Seconds() }()
		return awaitGone(end)
	}
	counters, err := r.enterGroups(c.first)
	if err != nil {
		c.kill()
		return result, errors.Join(err, gone())
	}
	listener.Close() // nobody else may call
	r.ownPipes(files)
	r.disk = r.newDisk()
	err = wire.PassFiles(c.conn, files[:]...)
	if err == nil {
		err = json.NewEncoder(c.conn).Encode(wire.Start{Args: r.spec.Args, Env: r.spec.Env, Dir: r.spec.Dir, UID: r.uid, GID: r.gid,
			FileSize: uint64(r.spec.Limits.Disk)})
	}
	if err != nil {
		c.kill()
		_ = gone()
		return result, fault.Errorf(fault.Temporary, "the first process in the container does not listen: %w", err)
	}
	ended, err := r.await(ctx, c, begun, stop)
	r.measure(counters, &ended, &result)
	c.conn.Close() // the container ends
	if ended.Error != "" || err != nil {
		c.kill()
	}
	if e := gone(); err == nil {
		err = e
	}
	if err == nil && ended.Error != "" {
		err = fault.Errorf(ended.Fault, "%s", ended.Error)
	}
	return result, err
}

func (r *run) listen() (*net.UnixListener, error) {
	path := r.socket()
	if len(path) > 107 {
		return nil, fault.Errorf(fault.Config, "the state folder %s has too long a name for a socket in it", r.req.State)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if r.root {
		err = os.Chown(path, int(r.slot.ids), int(r.slot.ids))
	} else {
		err = os.Chmod(path, 0o666) // in a folder that only this user's containers see
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// ownPipes gives the program the pipes that it gets, so that it can open
// /dev/stdout again.
func (r *run) ownPipes(files [3]*os.File) {
	if !r.root {
		return
	}
	for _, f := range files {
		if fi, err := f.Stat(); err == nil && fi.Mode()&os.ModeNamedPipe != 0 {
			_ = f.Chown(int(r.slot.ids+r.uid), int(r.slot.ids+r.gid)) // without it the program only lacks a convenience
		}
	}
}

// await waits for the program's end. An error means that it cannot be told how
// the program ended.
func (r *run) await(ctx context.Context, c *container, begun time.Time, stop <-chan wire.Stop) (wire.End, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages := make(chan wire.Message)
	go func() {
		defer close(messages)
		for in := json.NewDecoder(c.conn); ; {
			var m wire.Message
			if in.Decode(&m) != nil {
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	started := time.Time{}
	defer func() {
		if started.IsZero() {
			started = time.Now()
		}
		r.stats.Start, r.stats.Run = started.Sub(begun).Seconds(), time.Since(started).Seconds()
	}()
	full := r.disk.watch(ctx, r.groups)
	var grace <-chan time.Time
	killed := false
	killNow := func() { killed = true; c.kill() }
	for {
		select {
		case m, ok := <-messages:
			switch {
			case m.End != nil:
				return *m.End, nil
			case m.Started != nil:
				started = time.Now()
			case !ok && killed: // everything at once, PID 1 included
				return wire.End{WaitStatus: uint32(unix.SIGKILL)}, nil
			case !ok:
				return wire.End{}, fault.Errorf(fault.Temporary, "the container was killed from outside, or LXC's monitor was")
			}
		case s, ok := <-stop:
			switch {
			case !ok: // the worker is gone
				stop = nil
				killNow()
			case s.Grace <= 0:
				killNow()
			default:
				_ = json.NewEncoder(c.conn).Encode(wire.Signal{Signal: int(unix.SIGTERM)})
				timer := time.NewTimer(s.Grace)
				defer timer.Stop()
				grace = timer.C
			}
		case <-grace:
			grace = nil
			killNow()
		case <-full:
			full = nil
			r.stats.DiskFull = true
			killNow()
		}
	}
}

// measure fills in the result, while PID 1 still keeps the container.
func (r *run) measure(c *counters, end *wire.End, result *sandbox.Result) {
	ws := unix.WaitStatus(end.WaitStatus)
	result.Status = ws.ExitStatus()
	if ws.Signaled() {
		result.Signal = int(ws.Signal())
		result.Status = fault.Lost.Status() + result.Signal
	}
	result.OOM = c.oomKills() > 0
	result.Full = r.stats.DiskFull
	result.Usage = sandbox.Usage{User: end.User, System: end.System, MaxRSS: end.MaxRSS}
	if user, system, ok := c.cpu(); ok && user+system > end.User+end.System {
		result.Usage.User, result.Usage.System = user, system
	}
	s := &r.stats
	s.Status, s.Signal, s.OOM, s.MaxRSS = result.Status, result.Signal, result.OOM, end.MaxRSS
	s.User, s.System = result.Usage.User.Seconds(), result.Usage.System.Seconds()
	s.PeakMemory, s.Leftovers = c.peak(), end.Leftovers
	result.Usage.Memory = s.PeakMemory
}

// explain adds LXC's own errors, which say more than its library's.
func (r *run) explain(err error) error {
	b, _ := os.ReadFile(r.log())
	var lines []string
	for line := range strings.Lines(string(b)) {
		if _, rest, ok := strings.Cut(line, " ERROR "); ok && len(lines) < 3 {
			if _, what, ok := strings.Cut(rest, " - "); ok {
				rest = what
			}
			lines = append(lines, strings.TrimSpace(rest))
		}
	}
	if len(lines) == 0 {
		return err
	}
	return fault.Errorf(fault.Of(err), "%w: %s", err, strings.Join(lines, "; "))
}
