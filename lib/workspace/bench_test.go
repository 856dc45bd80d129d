package workspace

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// large makes a workspace of 50,000 files and 500 MB, half of it
// incompressible.
func large(b *testing.B) string {
	b.Helper()
	dir := mkdir(b, filepath.Join(b.TempDir(), "w"))
	rnd := rand.New(rand.NewPCG(1, 1))
	content := make([]byte, 10_000)
	for i := range 50_000 {
		if i%50 == 0 {
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("d%02d/e%03d", i/2500, i/50)), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		for j := 0; j < len(content)/2; j += 8 {
			v := rnd.Uint64()
			for k := range 8 {
				content[j+k] = byte(v >> (8 * k))
			}
		}
		copy(content[len(content)/2:], fmt.Sprintf("file %d", i))
		if err := os.WriteFile(fileOf(dir, i), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func fileOf(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("d%02d/e%03d/f%05d", i/2500, i/50, i))
}

// BenchmarkHandOver changes 10 of 50,000 files, saves the workspace and brings
// another worker's copy to the same state. It reports what the same takes with
// tar and zstd of the whole: "tar-ms" for packing alone, "tar-both-ms" with
// unpacking at the other end.
func BenchmarkHandOver(b *testing.B) {
	ctx := context.Background()
	dir := large(b)
	s := newStore(b)
	here, there := newLayers(b, s), newLayers(b, s)
	start := time.Now()
	first, index, err := here.Save(ctx, dir, nil)
	if err != nil {
		b.Fatal(err)
	}
	whole := time.Since(start)
	copied := filepath.Join(b.TempDir(), "copy")
	start = time.Now()
	if _, err := there.Restore(ctx, copied, []string{first.Digest}); err != nil {
		b.Fatal(err)
	}
	restored := time.Since(start)
	packed := filepath.Join(b.TempDir(), "w.tar.zst")
	start = time.Now()
	if out, err := exec.Command("sh", "-c", `tar -C "$0" -c . | zstd -q -c >"$1"`, dir, packed).CombinedOutput(); err != nil {
		b.Skipf("tar and zstd: %v: %s", err, out)
	}
	tar := time.Since(start)
	start = time.Now()
	if out, err := exec.Command("sh", "-c", `zstd -dcq "$0" | tar -C "$1" -x`, packed, b.TempDir()).CombinedOutput(); err != nil {
		b.Skipf("tar and zstd: %v: %s", err, out)
	}
	both := tar + time.Since(start)

	n, scans := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		n++
		for i := range 10 {
			if err := os.WriteFile(fileOf(dir, i*5000+n%5000), fmt.Appendf(nil, "changed %d", n), 0o644); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		layer, next, err := here.Save(ctx, dir, index)
		if err != nil {
			b.Fatal(err)
		}
		index = next
		f, err := there.open(ctx, layer.Digest)
		if err != nil {
			b.Fatal(err)
		}
		if err := Apply(ctx, copied, f, Limits{}); err != nil {
			b.Fatal(err)
		}
		f.Close()
		b.StopTimer()
		start := time.Now()
		if _, err := Scan(ctx, copied); err != nil {
			b.Fatal(err)
		}
		scans += time.Since(start)
		b.StartTimer()
	}
	each := b.Elapsed() / time.Duration(b.N)
	b.ReportMetric(float64(each.Milliseconds()), "hand-over-ms")
	b.ReportMetric(float64(tar.Milliseconds()), "tar-ms")
	b.ReportMetric(float64(both.Milliseconds()), "tar-both-ms")
	b.ReportMetric(float64(tar)/float64(each), "tar/hand-over")
	b.ReportMetric(float64(both)/float64(each), "tar-both/hand-over")
	b.ReportMetric(float64((scans / time.Duration(b.N)).Milliseconds()), "scan-ms")
	b.ReportMetric(float64(whole.Milliseconds()), "save-whole-ms")
	b.ReportMetric(float64(restored.Milliseconds()), "restore-whole-ms")
	b.StopTimer()
	if d := difference(snapshot(b, dir), snapshot(b, copied)); d != "" {
		b.Error(d)
	}
}
