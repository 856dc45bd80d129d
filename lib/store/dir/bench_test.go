package dir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkAppend writes a log in chunks of 64 KiB, as a plain file and
// through the store.
func BenchmarkAppend(b *testing.B) {
	chunk := []byte(strings.Repeat("a line of the log, 32 bytes long\n", 2048))[:64<<10]
	const lap = 1 << 12 // the log begins anew after 256 MiB
	b.Run("plain", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		b.SetBytes(int64(len(chunk)))
		for i := 0; b.Loop(); i++ {
			if i%lap == 0 {
				f.Truncate(0)
			}
			if _, err := f.WriteAt(chunk, int64(i%lap*len(chunk))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("store", func(b *testing.B) {
		s := openT(b, b.TempDir())
		b.SetBytes(int64(len(chunk)))
		for i := 0; b.Loop(); i++ {
			if i > 0 && i%lap == 0 {
				if err := s.Delete(b.Context(), "builds/job/1/log/step.1"); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Append(b.Context(), "builds/job/1/log/step.1", int64(i%lap*len(chunk)), chunk); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPut stores a small object, durably.
func BenchmarkPut(b *testing.B) {
	text := strings.Repeat("x", 1000)
	b.Run("plain", func(b *testing.B) { // write, sync, rename, sync the folder
		d, err := os.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer d.Close()
		tmp, to := filepath.Join(d.Name(), "tmp"), filepath.Join(d.Name(), "k")
		for b.Loop() {
			f, err := os.Create(tmp)
			if err != nil {
				b.Fatal(err)
			}
			f.WriteString(text)
			f.Sync()
			f.Close()
			os.Rename(tmp, to)
			if err := d.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("store", func(b *testing.B) {
		s := openT(b, b.TempDir())
		for b.Loop() {
			put(b, s, "builds/job/1/state", text)
		}
	})
}

// BenchmarkList lists a page in the middle of 10,000 builds of three objects.
func BenchmarkList(b *testing.B) {
	s := openT(b, b.TempDir())
	for i := range 10_000 {
		for _, name := range []string{"state", "log/a", "log/b"} {
			if err := s.Append(b.Context(), fmt.Sprintf("builds/job/%016d/%s", i, name), 0, []byte("x")); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("page of 100", func(b *testing.B) {
		for b.Loop() {
			if l, err := s.List(b.Context(), "builds/job/", fmt.Sprintf("builds/job/%016d/state", 5000), 100); err != nil || len(l) != 100 {
				b.Fatal(len(l), err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			n, after := 0, ""
			for {
				l, err := s.List(b.Context(), "", after, 0)
				if err != nil {
					b.Fatal(err)
				}
				n += len(l)
				if len(l) < 1000 {
					break
				}
				after = l[len(l)-1].Key
			}
			if n != 30_000 {
				b.Fatal(n)
			}
		}
	})
}
