package workspace

import (
	"context"
	"fmt"
	"os"
	"sync"
)

// fetchers is how many layers of one workspace are fetched at the same time.
const fetchers = 4

// Prefetch is the layers of a workspace on their way here.
type Prefetch struct {
	layers  *Layers
	digests []string
	cancel  context.CancelFunc
	running sync.WaitGroup
	got     []fetched
}

// fetched is a layer that is here, or will not come, once done is closed.
type fetched struct {
	done chan struct{}
	file *os.File // verified; nil: taken, or there is an error
	err  error
}

// Prefetch begins to bring layers here, a few at a time, the first ones first.
// Whoever knows what it will restore can do something else meanwhile. It ends
// with Close.
func (l *Layers) Prefetch(ctx context.Context, digests []string) *Prefetch {
	ctx, cancel := context.WithCancel(ctx)
	p := &Prefetch{layers: l, digests: digests, cancel: cancel, got: make([]fetched, len(digests))}
	next := make(chan int, len(digests))
	for i := range digests {
		p.got[i].done = make(chan struct{})
		next <- i
	}
	close(next)
	for range min(fetchers, len(digests)) {
		p.running.Go(func() {
			for i := range next {
				g := &p.got[i]
				g.file, g.err = l.open(ctx, digests[i])
				close(g.done)
			}
		})
	}
	return p
}

// take waits for a layer, which is the caller's to close from then on.
func (p *Prefetch) take(ctx context.Context, i int) (*os.File, error) {
	select {
	case <-p.got[i].done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f := p.got[i].file
	p.got[i].file = nil
	return f, p.got[i].err
}

// Close ends what is still being fetched, and frees what was not restored. What
// has arrived stays in the cache.
func (p *Prefetch) Close() {
	p.cancel()
	p.running.Wait()
	for i := range p.got {
		if f := p.got[i].file; f != nil {
			f.Close()
		}
	}
}

// Restore makes dir what the layers say, as [Layers.Restore] does. It applies
// each as soon as it is here and those before it are applied. It may be called
// once.
func (p *Prefetch) Restore(ctx context.Context, dir string) (*Index, error) {
	x, err := p.restore(ctx, dir)
	return x, failed("restore", err)
}

func (p *Prefetch) restore(ctx context.Context, dir string) (*Index, error) {
	if err := makeEmpty(dir); err != nil {
		return nil, err
	}
	for i, digest := range p.digests {
		f, err := p.take(ctx, i)
		if err != nil {
			return nil, err
		}
		err = apply(ctx, dir, f, p.layers.limits, true)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", i+1, digest, err)
		}
	}
	return scan(ctx, dir)
}
