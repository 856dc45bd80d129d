package gc_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordsim "github.com/distci/distci/lib/coord/sim"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/fsck"
	"github.com/distci/distci/lib/gc"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
	"github.com/distci/distci/lib/store"
	storesim "github.com/distci/distci/lib/store/sim"
	"github.com/distci/distci/lib/workspace"
)

var (
	schedules = flag.Int("schedules", 20, "how many schedules to simulate")
	seedFlag  = flag.Uint64("seed", 0, "simulate the schedule of this seed only")
)

// TestSchedules lets builds, collectors and a checker run at the same time, in
// orders that a seed decides: every operation of the store takes a while, of
// minutes and now and then of hours, collectors die in the middle, and in half
// of the schedules coordination requests get lost and processes crash. The
// checker must never find a fault; in the end one more collection must leave
// nothing but what is kept.
func TestSchedules(t *testing.T) {
	cache, trees := repotest.NewCache(t), repotest.NewTrees(t, 12)
	var sum tally
	run := func(seed uint64) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, seed, cache, trees, &sum) })
		}) {
			t.Errorf("again: go test ./lib/gc -run TestSchedules -seed %d", seed)
		}
	}
	if *seedFlag != 0 {
		run(*seedFlag)
		return
	}
	n := *schedules
	if testing.Short() {
		n = min(n, 20)
	}
	for seed := range n {
		run(uint64(seed + 1))
		if t.Failed() {
			return
		}
	}
	t.Logf("%d schedules: %+v", n, &sum)
	if sum.layers.Load() == 0 || sum.again.Load() == 0 || sum.died.Load() == 0 || sum.busy.Load() == 0 {
		t.Error("the schedules do not have what they are for")
	}
}

// tally is what has happened in all schedules.
type tally struct {
	builds, collections, died, busy atomic.Int64
	gone, layers                    atomic.Int64 // builds and layers that were removed
	saved, again                    atomic.Int64 // layers that were saved, and those of them that were there
}

func (s *tally) String() string {
	return fmt.Sprintf("%d builds, %d collections, of which %d died and %d found another at work; %d builds and %d layers went, %d layers were saved, of which %d were there already",
		s.builds.Load(), s.collections.Load(), s.died.Load(), s.busy.Load(), s.gone.Load(), s.layers.Load(), s.saved.Load(), s.again.Load())
}

// actors are the processes of a schedule.
type actors struct {
	t       *testing.T
	seed    uint64
	world   *coordsim.World
	store   *storesim.Store
	sum     *tally
	all     sync.WaitGroup
	running atomic.Int64
	begun   time.Time
	count   uint64
	remover bool
	faulty  bool
}

const simDays = 12

func (a *actors) over() bool { return time.Since(a.begun) > simDays*24*time.Hour }

// process is what one process has of its own.
type process struct {
	*actors
	conn *coordsim.Client
	rnd  *rand.Rand
}

// start begins a process.
func (a *actors) start(name string, f func(p *process)) {
	a.count++
	p := &process{a, a.world.Open(name), rand.New(rand.NewPCG(a.seed, a.count))}
	a.running.Add(1)
	a.all.Go(func() {
		defer a.running.Add(-1)
		f(p)
	})
}

// pause lasts minutes, or now and then hours.
func (p *process) pause() {
	d := time.Duration(p.rnd.IntN(int(10 * time.Minute)))
	if p.rnd.IntN(40) == 0 {
		d *= 40
	}
	time.Sleep(d)
}

// open is the store as this process sees it.
func (p *process) open(slow bool) (s store.Store, c *storesim.Client) {
	c = p.store.Open()
	c.Hook = func(op, key string, do func() error) error {
		layer := strings.HasPrefix(key, repo.LayersPrefix)
		switch {
		case slow && layer && (op == "swap" || op == "delete"):
			time.Sleep(time.Duration(p.rnd.IntN(int(store.Removing / 2)))) // as long as store.Remove may take, and more
		case slow:
			p.pause()
		}
		if p.conn.Crashed() {
			runtime.Goexit()
		}
		if op == "create" && layer {
			p.sum.saved.Add(1)
		}
		if err := do(); op != "create" || !layer || !errors.Is(err, store.ErrExists) {
			return err
		}
		p.sum.again.Add(1)
		return store.ErrExists
	}
	if p.remover {
		return storesim.Remover{Client: c}, c
	}
	return c, c
}

func (p *process) repo(s store.Store) *repo.Repo {
	for {
		r, err := repo.Open(context.Background(), p.conn, s, queue.Options{})
		if err == nil {
			return r
		}
		if !p.faulty {
			p.t.Errorf("open: %v", err)
		}
		time.Sleep(time.Second)
	}
}

// work is the life of a worker. Between saving a layer and the commit it takes
// less than the grace.
func (p *process) work(cache *workspace.Cache, trees []string) {
	s, _ := p.open(true)
	r := p.repo(s)
	x := &repotest.Worker{Name: "worker", Repo: r, Layers: workspace.NewLayers(s, cache, workspace.Limits{}), Trees: trees, Pick: p.rnd.IntN, Stray: true,
		Rest: func() { p.pause() }}
	for idle := 0; ; {
		more, err := x.Turn(context.Background())
		if err != nil && !p.faulty {
			p.t.Errorf("worker: %v", err)
		}
		if more || err != nil {
			idle = 0
			continue
		}
		if ids, _ := r.Queue().Requeue(context.Background()); len(ids) > 0 {
			continue
		}
		live, err := r.LiveBuilds(context.Background())
		if idle++; p.over() && err == nil && len(live) == 0 || idle > 500 {
			return
		}
		time.Sleep(time.Minute + time.Duration(p.rnd.IntN(int(time.Hour))))
	}
}

func (p *process) trigger() {
	s, _ := p.open(false)
	r := p.repo(s)
	for !p.over() {
		if _, err := r.Trigger(context.Background(), []string{"few", "aged"}[p.rnd.IntN(2)], nil); err == nil {
			p.sum.builds.Add(1)
		} else if !p.faulty {
			p.t.Errorf("trigger: %v", err)
		}
		time.Sleep(time.Duration(p.rnd.IntN(int(24 * time.Hour))))
	}
}

// collect runs gc again and again, and lets it die now and then.
func (p *process) collect() {
	for !p.over() {
		s, c := p.open(true)
		slow, left := c.Hook, -1
		if p.rnd.IntN(3) == 0 {
			left = p.rnd.IntN(150)
		}
		dead := fault.Errorf(fault.Temporary, "%w: dead", store.ErrUnknown)
		c.Hook = func(op, key string, do func() error) error {
			switch {
			case left == 0:
				return dead
			case left > 0:
				left--
			}
			err := slow(op, key, do)
			if left == 0 {
				return dead
			}
			return err
		}
		rep, err := gc.Run(context.Background(), p.repo(s), gc.Options{Grace: grace, Jobs: 1, Keep: gc.Keep{WorkspaceDays: 3}})
		p.sum.collections.Add(1)
		p.sum.gone.Add(int64(rep.Gone[gc.Build].Items))
		p.sum.layers.Add(int64(rep.Gone[gc.Layer].Items))
		switch {
		case err == nil && len(rep.Problems) > 0:
			p.t.Errorf("gc: %q", rep.Problems)
		case err == nil:
		case strings.Contains(err.Error(), "at work"):
			p.sum.busy.Add(1)
		case left == 0:
			p.sum.died.Add(1)
		case !p.faulty:
			p.t.Errorf("gc: %v", err)
		}
		time.Sleep(time.Duration(p.rnd.IntN(int(12 * time.Hour))))
	}
}

// watch looks for faults.
func (p *process) watch() {
	s, _ := p.open(false)
	r := p.repo(s)
	for !p.over() {
		time.Sleep(time.Duration(p.rnd.IntN(int(8 * time.Hour))))
		p.check(r)
	}
}

func (p *process) check(r *repo.Repo) {
	_, err := fsck.Run(context.Background(), r, fsck.Options{Parallel: 1, Tell: func(f fsck.Fault) { p.t.Errorf("after %v: %v", time.Since(p.begun), f) }})
	if err != nil && !p.faulty {
		p.t.Errorf("fsck: %v", err)
	}
}

func simulate(t *testing.T, seed uint64, cache *workspace.Cache, trees []string, sum *tally) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	a := &actors{t: t, seed: seed, store: storesim.New(time.Now), sum: sum, begun: time.Now(), remover: rnd.IntN(2) == 0, faulty: seed%2 == 0}
	o := coordsim.Options{Seed: seed, Timeout: 10 * time.Second, Quiet: synctest.Wait, Steps: 1_000_000}
	if a.faulty {
		o.Faults = coordsim.Faults{Lose: 0.02, Pause: 0.002, Cut: 0.002, Crash: 0.0005, Crashes: 2}
	}
	a.world = coordsim.New(o)
	end := func() {
		t.Helper()
		if err := a.world.Run(func() bool { return a.running.Load() == 0 }); err != nil {
			t.Fatal(err)
		}
		a.all.Wait()
	}
	faulty := a.faulty
	a.faulty = false
	a.world.Calm()
	a.start("setup", func(p *process) {
		s, _ := p.open(false)
		r := p.repo(s)
		repotest.PutJob(t, r, "few", `, "retention": {"builds": 2, "keep_last_successful": false}`)
		repotest.PutJob(t, r, "aged", `, "retention": {"days": 4, "artifacts_days": 2}`)
	})
	end()
	a.faulty = faulty
	for _, name := range []string{"worker a", "worker b", "worker c"} {
		a.start(name, func(p *process) { p.work(cache, trees) })
	}
	a.start("trigger", (*process).trigger)
	a.start("gc a", (*process).collect)
	a.start("gc b", (*process).collect)
	a.start("watch", (*process).watch)
	end()
	a.world.Calm()
	a.faulty = false
	a.start("last worker", func(p *process) { p.work(cache, trees) })
	end()

	// What is left then is what is kept, and all of it.
	time.Sleep(2 * grace)
	a.start("last gc", func(p *process) {
		s, _ := p.open(false)
		r := p.repo(s)
		for _, dry := range []bool{false, true} {
			rep, err := gc.Run(context.Background(), r, gc.Options{Grace: grace, Jobs: 1, DryRun: dry, Keep: gc.Keep{WorkspaceDays: 3}})
			if err != nil || len(rep.Problems) > 0 || dry && len(rep.Gone) > 0 {
				t.Errorf("the last gc: %v, %+v", err, rep)
			}
		}
		p.check(r)
		if ns, err := r.Builds(context.Background(), "few"); err != nil || len(ns) > 2 {
			t.Errorf("builds %v are left of the last two, %v", ns, err)
		}
		live := map[string]bool{}
		for _, id := range []string{"few", "aged"} {
			ns, _ := r.Builds(context.Background(), id)
			for _, n := range ns {
				b, _, err := r.Finished(context.Background(), id, n)
				if err != nil {
					t.Error(err)
					continue
				}
				layers, _ := r.WorkspaceLayers(context.Background(), b)
				for _, l := range layers {
					live[strings.Replace(l, ":", "/", 1)] = true
				}
			}
		}
		for _, key := range a.store.Keys() {
			if rest, ok := strings.CutPrefix(key, repo.LayersPrefix); ok && !live[rest] {
				t.Errorf("garbage is left: %s", key)
			}
		}
	})
	end()
}
