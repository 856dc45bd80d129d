package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
	coordzk "github.com/distci/distci/lib/coord/zk"
	zktest "github.com/distci/distci/test/zk"
)

// The rows of ZooKeeper are measured on an ensemble of one node and on one of
// three, which are started for them, and are left out where it is not
// installed. Everything runs on this machine: the nodes share its processors
// and its disk with each other and with the clients.

// rig is an ensemble to measure on.
type rig struct {
	*bench
	*zktest.Ensemble
	nodes int
}

// tick is ZooKeeper's default.
const tick = 2 * time.Second

// session is the programs' default.
const session = 10 * time.Second

// ensembles measures on one node, and on three.
func (b *bench) ensembles(heap string, measure func(r *rig) error) error {
	for _, nodes := range []int{1, 3} {
		err := withEnsemble(b, zktest.Options{Nodes: nodes, TickTime: tick, Heap: heap}, measure)
		var skipped skip
		if errors.As(err, &skipped) {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d nodes: %w", nodes, err)
		}
	}
	return nil
}

func withEnsemble(b *bench, o zktest.Options, measure func(r *rig) error) (err error) {
	h := &host{}
	defer h.end()
	defer func() {
		switch p := recover().(type) {
		case nil:
		case stopped:
			err = p.error
		default:
			panic(p)
		}
	}()
	// Everything of this ensemble is in a folder of its own.
	dir, err := os.MkdirTemp(b.dir, "zk-")
	if err != nil {
		return err
	}
	e := zktest.Start(h, o)
	r := &rig{bench: &bench{dir: dir, coord: zkURL(e, "bench")}, Ensemble: e, nodes: o.Nodes}
	defer r.bench.close()
	return measure(r)
}

func zkURL(e *zktest.Ensemble, cluster string) string {
	return "zk://" + strings.Join(e.Servers(), ",") + "/" + cluster
}

// host stands in for the test that the kit of ensembles expects.
type host struct {
	testing.TB // nil: what the kit calls is below
	cleanup    []func()
	failed     bool
}

// stopped is what ends a measurement in the middle of the kit's work.
type stopped struct{ error }

// skip says why there is no ensemble.
type skip string

func (s skip) Error() string { return string(s) }

func (h *host) Helper()          {}
func (h *host) Failed() bool     { return h.failed }
func (h *host) Cleanup(f func()) { h.cleanup = append(h.cleanup, f) }
func (h *host) Skip(args ...any) { panic(stopped{skip(fmt.Sprint(args...))}) }
func (h *host) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}
func (h *host) Fatal(args ...any) {
	h.failed = true
	panic(stopped{errors.New(fmt.Sprint(args...))})
}
func (h *host) Fatalf(format string, args ...any) { h.Fatal(fmt.Sprintf(format, args...)) }

func (h *host) end() {
	for len(h.cleanup) > 0 {
		last := len(h.cleanup) - 1
		f := h.cleanup[last]
		h.cleanup = h.cleanup[:last]
		f()
	}
}

// row writes a row of this ensemble.
func (r *rig) row(name string, value float64, unit, against string, peer float64, bar string, met func(value, ratio float64) bool) {
	nodes := "1 node"
	if r.nodes > 1 {
		nodes = strconv.Itoa(r.nodes) + " nodes"
	}
	r.print("ZooKeeper, "+nodes+": "+name, value, unit, against, peer, bar, met)
}

// dial begins n sessions of our own adapter.
func (r *rig) dial(ctx context.Context, n int) (conns []coord.Conn, err error) {
	addr, err := coordzk.ParseAddress(r.coord)
	if err != nil {
		return nil, err
	}
	conns = make([]coord.Conn, n)
	err = together(n, 32, func(i int) (err error) {
		// Many at once take their time here, which is not what is measured.
		for range 5 {
			if conns[i], err = coordzk.Open(ctx, addr, coordzk.Options{SessionTimeout: session}); err == nil {
				return nil
			}
		}
		return err
	})
	if err != nil {
		hangUp(conns)
		return nil, err
	}
	return conns, nil
}

func hangUp(conns []coord.Conn) {
	_ = together(len(conns), 64, func(i int) error {
		if conns[i] != nil {
			conns[i].Close()
		}
		return nil
	})
}

// rawFolder is where the floor is measured.
const rawFolder = "/raw"

// raw is n sessions of the client library, bare.
func (r *rig) raw(n int) (conns []*zk.Conn, end func(), err error) {
	end = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for range n {
		c, _, err := zk.Connect(r.Servers(), session, zk.WithLogInfo(false), zk.WithLogger(silent{}), zk.WithEventCallback(func(zk.Event) {}))
		if err != nil {
			end()
			return nil, nil, err
		}
		conns = append(conns, c)
	}
	for _, dir := range []string{"", "/t", "/r", "/run", "/c"} {
		if _, err := conns[0].Create(rawFolder+dir, nil, 0, world); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			end()
			return nil, nil, err
		}
	}
	return conns, end, nil
}

type silent struct{}

func (silent) Printf(string, ...any) {}

// used is the processor time that all nodes together have used so far, without
// that of the compiler in them: it has done its work some day, and the
// measurement is short.
func (r *rig) used() (sum time.Duration, err error) {
	for i := range r.nodes {
		d, err := cpuTimeOf(r.PID(i+1), func(thread string) bool {
			return !strings.HasPrefix(thread, "C1 Compiler") && !strings.HasPrefix(thread, "C2 Compiler")
		})
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}
