package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/distci/distci/lib/workspace"
)

// handover measures what it takes to hand a large workspace over in which
// little has changed: to find and store the change, and to apply it where the
// layers below are already.
func handover(b *bench) error {
	const size, changed = 10000, 10
	files := b.some(50000, 500)
	ctx := context.Background()
	here, there := filepath.Join(b.dir, "here"), filepath.Join(b.dir, "there")
	rng := rand.NewChaCha8([32]byte{1})
	content := make([]byte, size)
	for i := range files {
		folder := filepath.Join(here, fmt.Sprintf("d%03d", i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		// Half of it can be compressed, as source and object files can.
		rng.Read(content[:size/2])
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("f%02d", i%100)), content, 0o644); err != nil {
			return err
		}
	}
	cl, err := b.open()
	if err != nil {
		return err
	}
	defer cl.Close()
	st := cl.Store
	cache, err := workspace.OpenCache(filepath.Join(b.dir, "cache"), 10<<30)
	if err != nil {
		return err
	}
	layers := workspace.NewLayers(st, cache, workspace.Limits{})
	base, index, err := layers.Save(ctx, here, nil)
	if err != nil {
		return err
	}
	if _, err := layers.Restore(ctx, there, []string{base.Digest}); err != nil {
		return err
	}
	var ours, floor []float64
	for round := range 5 {
		for i := range changed {
			rng.Read(content)
			if err := os.WriteFile(filepath.Join(here, fmt.Sprintf("d%03d/f%02d", (round*changed+i)*7%(files/100), i)), content, 0o644); err != nil {
				return err
			}
		}
		from := time.Now()
		layer, next, err := layers.Save(ctx, here, index)
		if err != nil {
			return err
		}
		key, err := workspace.Key(layer.Digest)
		if err != nil {
			return err
		}
		r, _, err := st.Get(ctx, key, 0, -1)
		if err != nil {
			return err
		}
		err = workspace.Apply(ctx, there, r, workspace.Limits{})
		r.Close()
		if err != nil {
			return err
		}
		ours = append(ours, time.Since(from).Seconds())
		index = next
		if layer.Files < changed {
			return fmt.Errorf("the layer has %d entries for %d changed files", layer.Files, changed)
		}
		from = time.Now()
		if err := exec.Command("sh", "-c", fmt.Sprintf("tar -C %s -c . | zstd -q >%s/whole.tar.zst", here, b.dir)).Run(); err != nil {
			return err
		}
		floor = append(floor, time.Since(from).Seconds())
	}
	b.print(fmt.Sprintf("hand-over of %d files, %d MB, 10 changed", files, files*size/1_000_000), quantile(ours, 0.5), "s", "tar | zstd of the whole", quantile(floor, 0.5), "< 0.5 s and <= 1/20",
		func(v, r float64) bool { return v < 0.5 && r <= 0.05 })
	return nil
}
