package workspace

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// gated is a store whose reads wait to be let through.
type gated struct {
	store.Store
	asked chan string // keys, as they are asked for
	pass  chan bool   // one for each read; false: it breaks
	// own has the channels of those keys that do not wait for pass.
	own map[string]chan bool
}

func (g *gated) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	g.asked <- key
	pass := g.pass
	if own, ok := g.own[key]; ok {
		pass = own
	}
	select {
	case ok := <-pass:
		if !ok {
			return nil, store.Info{}, fault.Errorf(fault.Temporary, "the store went away")
		}
	case <-ctx.Done():
		return nil, store.Info{}, ctx.Err()
	}
	return g.Store.Get(ctx, key, offset, n)
}

func newGated(t *testing.T) (*gated, *Layers) {
	g := &gated{Store: newStore(t), asked: make(chan string, 100), pass: make(chan bool)}
	return g, newLayers(t, g)
}

// steps saves n layers with a file each, and returns their digests.
func steps(t *testing.T, s store.Store, n int) (digests []string) {
	t.Helper()
	l, dir := newLayers(t, s), t.TempDir()
	var index *Index
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
		layer, x, err := l.Save(t.Context(), dir, index)
		if err != nil {
			t.Fatal(err)
		}
		index = x
		digests = append(digests, layer.Digest)
	}
	return digests
}

// TestPrefetch: a few layers come at the same time, the first ones first, and
// each is applied as soon as it can be.
func TestPrefetch(t *testing.T) {
	g, l := newGated(t)
	digests := steps(t, g.Store, 7)
	g.own = map[string]chan bool{}
	var own []chan bool
	for _, digest := range digests {
		key, _ := Key(digest)
		g.own[key] = make(chan bool)
		own = append(own, g.own[key])
	}
	p := l.Prefetch(t.Context(), digests)
	defer p.Close()
	first := map[string]bool{}
	for range fetchers {
		first[<-g.asked] = true
	}
	for i, digest := range digests {
		if key, _ := Key(digest); first[key] != (i < fetchers) {
			t.Errorf("layer %d is asked for: %v", i, first[key])
		}
	}
	select {
	case key := <-g.asked:
		t.Errorf("%s is asked for, too", key)
	default:
	}
	dir := filepath.Join(t.TempDir(), "there")
	done := make(chan error, 1)
	go func() {
		_, err := p.Restore(t.Context(), dir)
		done <- err
	}()
	own[0] <- true
	own[2] <- true // too early
	for {
		if _, err := os.Stat(filepath.Join(dir, "f0")); err == nil {
			break
		}
		runtime.Gosched()
	}
	select {
	case err := <-done:
		t.Fatal("it ends before all layers are here:", err)
	default:
	}
	for _, i := range []int{3, 5, 4, 1, 6} {
		own[i] <- true
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != len(digests) {
		t.Error(entries)
	}
}

// TestPrefetchIsEnded: what is not wanted any more is not waited for, and what
// has arrived stays.
func TestPrefetchIsEnded(t *testing.T) {
	g, l := newGated(t)
	digests := steps(t, g.Store, 6)
	p := l.Prefetch(t.Context(), digests)
	<-g.asked
	g.pass <- true
	for len(cached(t, l.cache)) == 0 { // until one has arrived
		runtime.Gosched()
	}
	p.Close()
	if got := cached(t, l.cache); len(got) != 1 {
		t.Errorf("cached: %v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(l.cache.dir, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	l.Prefetch(t.Context(), nil).Close()
}

// TestPrefetchFails: a layer that does not come is the restore's error, and a
// repeat gets on with what is there.
func TestPrefetchFails(t *testing.T) {
	g, l := newGated(t)
	digests := steps(t, g.Store, 3)
	p := l.Prefetch(t.Context(), digests)
	for i := range digests {
		g.pass <- i > 0
	}
	for len(cached(t, l.cache)) < 2 { // closing ends what is on its way
		runtime.Gosched()
	}
	if _, err := p.Restore(t.Context(), filepath.Join(t.TempDir(), "x")); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "went away") {
		t.Error(err)
	}
	p.Close()
	for len(g.asked) > 0 {
		<-g.asked
	}
	close(g.pass) // nothing more comes
	ctx, cancel := context.WithCancel(t.Context())
	p = l.Prefetch(ctx, digests)
	defer p.Close()
	<-g.asked
	cancel()
	if _, err := p.Restore(ctx, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("it is restored without a layer")
	}
	if n := len(g.asked); n != 0 {
		t.Errorf("%d layers are fetched again", n)
	}
}

// TestFetchedOnce: of several that want a layer one fetches it.
func TestFetchedOnce(t *testing.T) {
	g, l := newGated(t)
	digest := put(t, l, []byte("a layer"))
	other := NewLayers(g, &Cache{dir: l.cache.dir, bound: l.cache.bound, stuck: l.cache.stuck}, Limits{}) // as another process has it
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			if got := read(t, []*Layers{l, other}[i%2], digest); string(got) != "a layer" {
				t.Errorf("%q", got)
			}
		})
	}
	<-g.asked
	g.pass <- true
	group.Wait()
	if len(g.asked) > 0 {
		t.Errorf("fetched %d times more", len(g.asked))
	}
}

// TestNextFetches: if the one who fetches a layer fails, the next one does it.
func TestNextFetches(t *testing.T) {
	g, l := newGated(t)
	digest := put(t, l, []byte("a layer"))
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			f, err := l.open(context.Background(), digest)
			if err == nil {
				f.Close()
			}
			errs <- err
		}()
	}
	<-g.asked
	g.pass <- false
	if err := <-errs; fault.Of(err) != fault.Temporary {
		t.Error(err)
	}
	<-g.asked
	g.pass <- true
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

// TestFrozenFill: who does not get on with a layer does not keep others from
// it.
func TestFrozenFill(t *testing.T) {
	g, l := newGated(t)
	digest := put(t, l, []byte("a layer"))
	l.cache.stuck = 0
	done := make(chan error, 1)
	go func() {
		f, err := l.open(context.Background(), digest)
		if err == nil {
			f.Close()
		}
		done <- err
	}()
	<-g.asked // and from here on it is frozen
	got := make(chan []byte)
	go func() { got <- read(t, l, digest) }()
	select {
	case <-g.asked:
	case <-got:
		t.Fatal("it came without being asked for")
	}
	g.pass <- true
	g.pass <- true
	if b := <-got; string(b) != "a layer" {
		t.Errorf("%q", b)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKilledFill: a process that is killed in the middle of a fill lets another
// one, which waits for it, go on.
func TestKilledFill(t *testing.T) {
	s := &counting{Store: newStore(t)}
	l := newLayers(t, s)
	put(t, l, halfLayer)
	cmd := child(t, "half", l.cache.dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("half"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.open(ctx, sha(halfLayer)); err == nil || s.gets != 0 {
		t.Error("it does not wait:", s.gets, err)
	}
	got := make(chan []byte)
	go func() { got <- read(t, l, sha(halfLayer)) }()
	cmd.Process.Kill()
	cmd.Wait()
	if b := <-got; !bytes.Equal(b, halfLayer) || s.gets != 1 {
		t.Errorf("%d bytes, fetched %d times", len(b), s.gets)
	}
	if left, _ := filepath.Glob(filepath.Join(l.cache.dir, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestEvictedWhileRead: what is being read can be read to its end.
func TestEvictedWhileRead(t *testing.T) {
	l := newLayers(t, newStore(t))
	l.cache.bound = 300_000
	layer := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 200_000) }
	f, err := l.open(t.Context(), put(t, l, layer(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	half := make([]byte, 100_000)
	if _, err := io.ReadFull(f, half); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		read(t, l, put(t, l, layer(i+1)))
	}
	if got := cached(t, l.cache); got[sha(layer(0))] != 0 || len(got) != 1 {
		t.Errorf("cached: %v", got)
	}
	rest, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(append(half, rest...), layer(0)) {
		t.Error(len(rest), err)
	}
}

// TestUnfinishedCounts: room is made for what is being written, too.
func TestUnfinishedCounts(t *testing.T) {
	l := newLayers(t, newStore(t))
	l.cache.bound = 1000
	read(t, l, put(t, l, make([]byte, 400)))
	tmp, err := l.cache.temp()
	if err != nil {
		t.Fatal(err)
	}
	defer tmp.discard()
	if err := tmp.f.Truncate(500); err != nil {
		t.Fatal(err)
	}
	read(t, l, put(t, l, make([]byte, 401)))
	if got := cached(t, l.cache); len(got) != 1 || got[sha(make([]byte, 401))] == 0 {
		t.Errorf("cached: %v", got)
	}
}
