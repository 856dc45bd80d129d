package spine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// balancer passes connections on to backends in turn, and knows nothing of what
// goes over them.
type balancer struct {
	net.Listener
	mu       sync.Mutex
	backends []string
	next     int
	wg       sync.WaitGroup
}

func newBalancer(t *testing.T, n int) *balancer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: ln, backends: make([]string, n)}
	b.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.pass(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); b.wg.Wait() })
	return b
}

func (b *balancer) set(i int, addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends[i] = addr
}

// dial takes the next backend that takes the connection.
func (b *balancer) dial() net.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.backends {
		b.next = (b.next + 1) % len(b.backends)
		if c, err := net.Dial("tcp", b.backends[b.next]); err == nil {
			return c
		}
	}
	return nil
}

func (b *balancer) pass(c net.Conn) {
	defer c.Close()
	to := b.dial()
	if to == nil {
		return
	}
	defer to.Close()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{c, to}, {to, c}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	<-done // one end has closed: so does the other
	c.Close()
	to.Close()
	<-done
}

// TestFrontendsDie: behind a balancer each of three frontends is killed in turn
// while 100 builds are begun and followed and artefacts go up. Clients that keep
// to the rules of distci-rest(7) see no error, begin each build once, and lose
// no line.
func TestFrontendsDie(t *testing.T) {
	const builds, lines, uploaders = 100, 25, 2
	l := newLab(t)
	var procs [3]*proc
	balancer := newBalancer(t, len(procs))
	up := func(i int) {
		procs[i] = l.frontend()
		port, err := os.ReadFile(l.path("port"))
		if err != nil {
			t.Fatal(err)
		}
		balancer.set(i, "127.0.0.1:"+strings.TrimSpace(string(port)))
	}
	for i := range procs {
		up(i)
	}
	c, err := client.New("http://"+balancer.Addr().String(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l.shellJob("quiet", ":")
	l.shellJob("loud", fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i of $BUILD_NUMBER; [ $((i%%8)) != 0 ] || sleep 0.1; done", lines))
	for i := range 4 {
		l.worker(fmt.Sprint("w", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	quiet, err := c.Begin(ctx, "quiet", client.Start{Key: "quiet"})
	if err != nil {
		t.Fatal(err)
	}

	var uploads sync.WaitGroup
	var stored, repeated atomic.Int64
	for u := range uploaders {
		uploads.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				data := bytes.Repeat(fmt.Appendf(nil, "upload %d.%d\n", u, n), 50_000)
				a, err := c.PutArtifact(ctx, "quiet", quiet, bytes.NewReader(data), int64(len(data)))
				for ; fault.Of(err) == fault.Temporary && ctx.Err() == nil; repeated.Add(1) { // the rule for uploads: once more, from the beginning
					a, err = c.PutArtifact(ctx, "quiet", quiet, bytes.NewReader(data), int64(len(data)))
				}
				if ctx.Err() != nil {
					return
				}
				if sum := sha256.Sum256(data); err != nil || a.SHA256 != hex.EncodeToString(sum[:]) {
					t.Errorf("upload %d.%d: %+v, %v", u, n, a, err)
					return
				}
				stored.Add(1)
			}
		})
	}

	var followers sync.WaitGroup
	var seen sync.Map
	var heard atomic.Int64 // bytes of logs
	for i := range builds {
		followers.Go(func() {
			n, err := c.Begin(ctx, "loud", client.Start{Key: fmt.Sprintf("build-%d", i)})
			if err != nil {
				t.Errorf("begin %d: %v", i, err)
				return
			}
			if _, twice := seen.LoadOrStore(n, true); twice {
				t.Errorf("two keys have begun build %d", n)
			}
			var out bytes.Buffer
			if err := c.Follow(ctx, "loud", n, 0, io.MultiWriter(&out, count{&heard})); err != nil {
				t.Errorf("follow %d: %v", n, err)
				return
			}
			var want strings.Builder
			for k := range lines {
				fmt.Fprintf(&want, "line %d of %d\n", k+1, n)
			}
			got := ""
			for line := range strings.Lines(out.String()) {
				if !strings.HasPrefix(line, "distci:") { // the worker's own
					got += line
				}
			}
			if got != want.String() {
				t.Errorf("the log of build %d is %q", n, out.String())
			}
			if s, err := c.Build(ctx, "loud", n); err != nil || s.Result != ticket.Success {
				t.Errorf("build %d: %+v, %v", n, s, err)
			}
		})
	}
	// All of it is under way at each kill.
	size := int64(builds * lines * len("line 10 of 50\n"))
	for i := range procs {
		l.until("builds go on", func() bool { return heard.Load() > size*int64(i+1)/5 })
		procs[i].kill()
		up(i)
	}
	followers.Wait()
	done := stored.Load()
	l.until("uploads go on", func() bool { return stored.Load() > done })
	cancel()
	uploads.Wait()
	t.Logf("%d uploads, %d of them repeated", stored.Load(), repeated.Load())
	if ns, err := c.Builds(t.Context(), "loud"); err != nil || len(ns) != builds {
		t.Errorf("there are %d builds, %v", len(ns), err)
	}
}

// count counts bytes.
type count struct{ n *atomic.Int64 }

func (c count) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
