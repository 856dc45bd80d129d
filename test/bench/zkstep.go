package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/worker"
	"github.com/distci/distci/lib/workspace"
)

// zkStep measures what the coordination costs a step.
func zkStep(b *bench) error {
	return b.ensembles("256m", func(r *rig) error {
		if err := r.stepRate(); err != nil {
			return err
		}
		return r.stepCost()
	})
}

// stepRate runs builds of no-op steps with the real programs.
func (r *rig) stepRate() error {
	ctx := context.Background()
	c, err := r.frontend()
	if err != nil {
		return err
	}
	for range 2 {
		if _, err := r.worker("--jobs", "4"); err != nil {
			return err
		}
	}
	const builds, steps = 60, 10
	if err := r.job(c, "noop", strings.Split(strings.Repeat(":", steps), "")...); err != nil {
		return err
	}
	rate := 0.0
	for round := range 3 { // the first ones warm the servers up
		first := round*builds + 1
		from := time.Now()
		for range builds {
			if _, err := c.Trigger(ctx, "noop"); err != nil {
				return err
			}
		}
		for n := range builds {
			if _, err := finish(c, "noop", ticket.Number(first+n)); err != nil {
				return err
			}
		}
		rate = builds * steps / time.Since(from).Seconds()
	}
	raw, err := r.rawRate()
	if err != nil {
		return err
	}
	bar, met := "", (func(_, _ float64) bool)(nil)
	if r.nodes == 3 {
		bar, met = "> 150 /s", func(v, _ float64) bool { return v > 150 }
	}
	r.row("no-op steps, builds of ten, two worker processes with four slots each", rate, "1/s",
		fmt.Sprintf("raw transactions, %d at a time", loadConns*loadEach), raw, bar, met)
	alone, err := execRate(r.bench, 8, 75)
	if err != nil {
		return err
	}
	r.row("no-op steps, the same, beside their tool", rate, "1/s", "distci-exec alone, eight at a time", alone, "", nil)
	return nil
}

// rawRate is how many single writes of 300 bytes the ensemble carries out in a
// second.
func (r *rig) rawRate() (float64, error) {
	conns, end, err := r.raw(loadConns)
	if err != nil {
		return 0, err
	}
	defer end()
	data := make([]byte, 300)
	return phase(func(client int) error {
		_, err := conns[client%loadConns].Set(rawFolder, data, -1)
		return err
	})
}

// stepCost runs builds on one worker, in this process, and measures what its
// steps ask of the service.
func (r *rig) stepCost() error {
	ctx := context.Background()
	conns, err := r.dial(ctx, 2)
	if err != nil {
		return err
	}
	defer hangUp(conns)
	st, err := dir.Open(filepath.Join(r.dir, "store"))
	if err != nil {
		return err
	}
	defer st.Close()
	theirs := &observed{Conn: conns[0]}
	repos := [2]*repo.Repo{}
	for i, c := range []coord.Conn{theirs, conns[1]} {
		if repos[i], err = repo.Open(ctx, c, st, queue.Options{}); err != nil {
			return err
		}
	}
	stop, err := r.inProcess(ctx, repos[0])
	if err != nil {
		return err
	}
	costs, floor, err := r.costs(ctx, theirs, repos[1])
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	r.costRows(costs, floor)
	return nil
}

// inProcess starts a worker that is a part of this process.
func (r *rig) inProcess(ctx context.Context, rp *repo.Repo) (stop func() error, err error) {
	cache, err := workspace.OpenCache(filepath.Join(r.dir, "layers"), 1<<30)
	if err != nil {
		return nil, err
	}
	w, err := worker.New(worker.Options{Repo: rp, Layers: workspace.NewLayers(rp.Store(), cache, workspace.Limits{}), Sandbox: child{}, Name: "bench",
		Dir: filepath.Join(r.dir, "in-process"), Slots: 1, Loop: true, Session: session, Grace: time.Second,
		Log: slog.New(slog.DiscardHandler), Tools: worker.Tools{Path: []string{filepath.Dir(program("distci-exec"))}, Labels: []string{"bench"}}})
	if err != nil {
		return nil, err
	}
	drain, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := w.Run(ctx, drain)
		done <- err
	}()
	return func() error {
		close(drain)
		return errors.Join(<-done, w.Close())
	}, nil
}

// child is a sandbox that is none: the step is a no-op of ours.
type child struct{}

func (child) Describe() string { return "none" }

func (child) Inside(m sandbox.Mount) string { return m.Source }

func (child) Run(_ context.Context, s sandbox.Spec) (sandbox.Result, error) {
	cmd := exec.Command(s.Args[0], s.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Env, s.Dir, s.Stdin, s.Stdout, s.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return sandbox.Result{Status: exit.ExitCode()}, nil
	}
	return sandbox.Result{}, err
}

// costs runs builds, and returns what was asked of the service in the middle of
// each: from the first commit of a step that begins the next one to the last.
// After each build it measures the floor, in ms, with the same operations.
func (r *rig) costs(ctx context.Context, theirs *observed, rp *repo.Repo) (list [][]call, floor []float64, err error) {
	conns, end, err := r.raw(1)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	const steps = 12
	task := `{"type":"execute-shell","params":{"script":":"},"labels":["bench"]}`
	if err := rp.PutJob(ctx, "one", fmt.Appendf(nil, `{"job_id":"one","tasks":[%s%s]}`, strings.Repeat(task+",", steps-1), task)); err != nil {
		return nil, nil, err
	}
	for round := range 12 {
		theirs.take()
		b, err := rp.Trigger(ctx, "one", nil)
		if err != nil {
			return nil, nil, err
		}
		for b.State.Status != build.Complete {
			time.Sleep(20 * time.Millisecond)
			if b, err = rp.Build(ctx, "one", b.Number); err != nil {
				return nil, nil, err
			}
		}
		if b.State.Result != ticket.Success {
			return nil, nil, fmt.Errorf("build %d: %s", b.Number, b.State.Result)
		}
		calls := theirs.take()
		first := slices.IndexFunc(calls, goesOn)
		last := len(calls) - 1
		for last >= 0 && !goesOn(calls[last]) {
			last--
		}
		if first < 0 || last-first < steps-3 {
			return nil, nil, fmt.Errorf("build %d: its worker does not go on from step to step", b.Number)
		}
		took, err := r.rawCommits(conns[0], calls[last].ops, round, steps)
		if err != nil {
			return nil, nil, err
		}
		if round >= 2 { // the first ones warm up
			list, floor = append(list, calls[first:last+1]), append(floor, took...)
		}
	}
	return list, floor, nil
}

// goesOn tells whether a call is the commit of a step that begins the next one.
func goesOn(c call) bool {
	return len(c.ops) == 8 && c.ops[0].Kind == coord.OpDelete && strings.HasPrefix(c.ops[3].Path, "/builds/")
}

// costRows compares the steps with their commits' operations alone.
func (r *rig) costRows(costs [][]call, floor []float64) {
	var spent, all, reads []float64
	size := 0
	for _, calls := range costs {
		steps, n, took := 0.0, 0, 0.0
		for _, c := range calls[1:] {
			took += float64(c.took.Microseconds()) / 1000
			switch {
			case goesOn(c): // and all that led to it
				spent = append(spent, took)
				steps, took, size = steps+1, 0, len(c.ops[3].Data)
			case c.ops == nil:
				n++
			}
		}
		reads = append(reads, float64(n)/steps)
		all = append(all, float64(calls[len(calls)-1].zxid-calls[0].zxid)/steps)
	}
	r.row("transactions of the ensemble a step, a build on one worker", quantile(all, 0.5), "", "one that ends a step and begins the next", 1, "<= 1.3 x", func(_, ratio float64) bool { return ratio <= 1.3 })
	r.row("reads a step, a build on one worker", quantile(reads, 0.5), "", "", 0, "", nil)
	r.row(fmt.Sprintf("coordination a step, a build on one worker, a record of %d bytes, p50", size), quantile(spent, 0.5), "ms",
		"the same transaction and nothing else, p50", quantile(floor, 0.5), "<= 1.3 x", func(_, ratio float64) bool { return ratio <= 1.3 })
}

// rawCommits repeats the operations of a commit, each time on nodes that the
// one before has made, and after a step's tool has run, as between commits.
// It returns the times of the transactions in ms.
func (r *rig) rawCommits(c *zk.Conn, commit []coord.Op, round, n int) (took []float64, err error) {
	path := func(op coord.Op, i int) string {
		kind := strings.Split(op.Path, "/")[1]
		switch kind {
		case "builds":
			return rawFolder + "/t"
		case "q":
			kind = "t"
		}
		return rawNode(kind, fmt.Sprintf("%030d-%05d", round, i))
	}
	// What the first one deletes.
	var first []any
	for _, op := range commit {
		if op.Kind == coord.OpDelete {
			first = append(first, rawCreate(path(op, 0), nil, 0))
		}
	}
	if _, err := c.Multi(first...); err != nil {
		return nil, err
	}
	for i := range n {
		if _, err := forkExec(r.bench, 1); err != nil {
			return nil, err
		}
		var ops []any
		for _, op := range commit {
			switch op.Kind {
			case coord.OpDelete:
				ops = append(ops, rawDelete(path(op, i)))
			case coord.OpSet:
				ops = append(ops, &zk.SetDataRequest{Path: path(op, i+1), Data: op.Data, Version: -1})
			case coord.OpCreate:
				flags := int32(0)
				if op.Ephemeral {
					flags = zk.FlagEphemeral
				}
				ops = append(ops, rawCreate(path(op, i+1), op.Data, flags))
			}
		}
		from := time.Now()
		if _, err := c.Multi(ops...); err != nil {
			return nil, err
		}
		took = append(took, ms(from, time.Now()))
	}
	return took, nil
}
