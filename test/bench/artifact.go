package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/workspace"
)

// artifacts measures artefacts on their way through a frontend, and the memory
// that it needs for them.
func artifacts(b *bench) error {
	ctx := context.Background()
	c, err := b.frontend()
	if err != nil {
		return err
	}
	frontend := b.procs[len(b.procs)-1].Process.Pid
	if err := b.job(c, "a", ":"); err != nil {
		return err
	}
	if _, err := c.Trigger(ctx, "a"); err != nil {
		return err
	}
	const size = 512 << 20
	data := filepath.Join(b.dir, "data")
	f, err := os.Create(data)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		return err
	}
	mbs := func(from time.Time) float64 { return size / 1e6 / time.Since(from).Seconds() }
	var up, down, write, read []float64
	for range 3 {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		from := time.Now()
		a, err := c.PutArtifact(ctx, "a", 1, f, size)
		if err != nil {
			return err
		}
		up = append(up, mbs(from))
		from = time.Now()
		if err := fetchWhole(ctx, c, a); err != nil {
			return err
		}
		down = append(down, mbs(from))
		for _, peer := range []struct {
			script string
			times  *[]float64
		}{{"cat data >copy && sync copy", &write}, {"cat data | cat >/dev/null", &read}} {
			cmd := exec.Command("sh", "-c", peer.script)
			cmd.Dir = b.dir
			from = time.Now()
			if err := cmd.Run(); err != nil {
				return err
			}
			*peer.times = append(*peer.times, mbs(from))
		}
	}
	b.print("artefact upload through a frontend", quantile(up, 0.5), "MB/s", "cat >file, fsync", quantile(write, 0.5), "", nil)
	b.print("artefact download through a frontend", quantile(down, 0.5), "MB/s", "cat | cat", quantile(read, 0.5), "", nil)

	huge, err := b.sparse(ctx, 5<<30)
	if err != nil {
		return err
	}
	from := time.Now()
	if err := fetchWhole(ctx, c, huge); err != nil {
		return err
	}
	b.print("artefact of 5 GiB, downloaded", (5<<30)/1e6/time.Since(from).Seconds(), "MB/s", "", 0, "", nil)
	peak, err := peakMemory(frontend)
	if err != nil {
		return err
	}
	b.print("memory of a frontend that streams an artefact of 5 GiB, peak", peak, "MB", "", 0, "< 64 MB", func(v, _ float64) bool { return v < 64 })
	return nil
}

// fetchWhole downloads an artefact of the build a #1, and compares it.
func fetchWhole(ctx context.Context, c *client.Client, a client.Artifact) error {
	r, err := c.GetArtifact(ctx, "a", ticket.Number(1), a.ID, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 256<<10))
	if err == nil && n != a.Size {
		err = fmt.Errorf("%d bytes of %d arrived", n, a.Size)
	}
	return err
}

// sparse puts an artefact of zeros into the store that takes no room there.
func (b *bench) sparse(ctx context.Context, size int64) (client.Artifact, error) {
	a := client.Artifact{ID: ticket.NewID(), Size: size}
	st, err := dir.Open(filepath.Join(b.dir, "store"))
	if err != nil {
		return a, err
	}
	defer st.Close()
	key := fmt.Sprintf("builds/a/%016d/artifacts/%s", 1, a.ID)
	if _, err := st.Put(ctx, key, strings.NewReader("")); err != nil {
		return a, err
	}
	file := filepath.Join(b.dir, "store", key)
	if err := os.Truncate(file, size); err != nil {
		return a, err
	}
	f, err := os.Open(file)
	if err != nil {
		return a, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, f, make([]byte, 1<<20)); err != nil {
		return a, err
	}
	a.SHA256 = hex.EncodeToString(sum.Sum(nil))
	text, err := json.Marshal(map[string]any{"size": size, "sha256": a.SHA256})
	if err == nil {
		_, err = st.Put(ctx, key+".json", bytes.NewReader(text))
	}
	return a, err
}

// peakMemory is the most that a process ever had in memory, in MB.
func peakMemory(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kb, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	return kb * 1024 / 1e6, err
}

// slow is a store that takes its time to answer, as one in a network does.
type slow struct {
	store.Store
	latency time.Duration
}

func (s slow) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	time.Sleep(s.latency)
	return s.Store.Get(ctx, key, offset, n)
}

// prefetch measures what a workspace of several layers takes to come from a
// store that is not near, against the same layers one after the other.
func prefetch(b *bench) error {
	const layers, size = 5, 2 << 20
	ctx := context.Background()
	st, err := dir.Open(filepath.Join(b.dir, "store"))
	if err != nil {
		return err
	}
	rounds := 0
	open := func(s store.Store) (*workspace.Layers, error) {
		rounds++
		cache, err := workspace.OpenCache(filepath.Join(b.dir, fmt.Sprint("cache-", rounds)), 10<<30)
		return workspace.NewLayers(s, cache, workspace.Limits{}), err
	}
	here := filepath.Join(b.dir, "here")
	if err := os.Mkdir(here, 0o755); err != nil {
		return err
	}
	worker, err := open(st)
	if err != nil {
		return err
	}
	var digests []string
	var index *workspace.Index
	rng := rand.NewChaCha8([32]byte{2})
	for i := range layers {
		content := make([]byte, size)
		rng.Read(content)
		if err := os.WriteFile(filepath.Join(here, fmt.Sprint("f", i)), content, 0o644); err != nil {
			return err
		}
		layer, x, err := worker.Save(ctx, here, index)
		if err != nil {
			return err
		}
		digests, index = append(digests, layer.Digest), x
	}
	far := slow{st, 20 * time.Millisecond}
	var parallel, serial []float64
	for range 5 {
		l, err := open(far)
		if err != nil {
			return err
		}
		from := time.Now()
		if _, err := l.Restore(ctx, filepath.Join(b.dir, fmt.Sprint("there-", rounds)), digests); err != nil {
			return err
		}
		parallel = append(parallel, ms(from, time.Now()))
		if l, err = open(far); err != nil {
			return err
		}
		from = time.Now()
		for i, digest := range digests { // each is brought before the next one is asked for
			if _, err := l.Restore(ctx, filepath.Join(b.dir, fmt.Sprint("one-", rounds, "-", i)), []string{digest}); err != nil {
				return err
			}
		}
		serial = append(serial, ms(from, time.Now()))
	}
	b.print("hand-over of 5 layers of 2 MiB, store latency 20 ms", quantile(parallel, 0.5), "ms", "one after the other", quantile(serial, 0.5), "", nil)
	return nil
}
