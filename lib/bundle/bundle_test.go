package bundle

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/fault"
)

func TestPlace(t *testing.T) {
	for _, tt := range []struct {
		files string // step:path=digest …
		want  string // names
	}{
		{"0:a=1 0:b/c=2", "a b/c"},
		{"0:a=1 1:a=1", "a"},
		{"0:a=1 1:a=2", "step-0/a step-1/a"},
		{"0:a=1 1:a=2 2:a=1", "step-0/a step-1/a"},
		{"0:a=1 1:a/b=2", "a/b step-0/a"},
		{"0:a=1 1:a=2 2:step-0/a=3", "id0 step-1/a step-2/step-0/a"},
		{"0:a=1 0:a=2", "id0 id1"},
		{":a=1 :a=2", "id0 id1"},
		{"0:..=1 0:=2 0:../x=3 0:a/../../x=4 0:/etc=5 0:a//b=6", "id0 id1 id2 id3 id4 id5"},
		{`0:c:\x=1 0:c:=2`, "c: id0"},
		{"", ""},
	} {
		var files []File
		for i, f := range strings.Fields(tt.files) {
			where, digest, _ := strings.Cut(f, "=")
			step, path, _ := strings.Cut(where, ":")
			files = append(files, File{ID: fmt.Sprint("id", i), Step: step, Path: strings.Split(path, "/"), SHA256: digest})
		}
		got := map[string]bool{}
		for _, p := range Place(files) {
			got[p.Name] = true
		}
		want := strings.Fields(tt.want)
		for _, name := range want {
			if !got[name] {
				t.Errorf("%s: %v, want %s", tt.files, got, tt.want)
				break
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %s", tt.files, got, tt.want)
		}
	}
	for _, id := range []string{"../x", "", "a/b", ".."} {
		if p := Place([]File{{ID: id}}); len(p) != 1 || !strings.HasPrefix(p[0].Name, "file-") {
			t.Errorf("%q: %v", id, p)
		}
	}
}

// zeros gives a file's bytes, all of them 0.
func zeros(_ context.Context, f File) (io.ReadCloser, error) {
	return io.NopCloser(io.LimitReader(zero{}, f.Size)), nil
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestLarge: a zip with a file of more than 4 GiB, made in little memory.
func TestLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 4 GiB of zeros")
	}
	const size = 4<<30 + 5
	files := Place([]File{{ID: "large", Path: []string{"large"}, Size: size}, {ID: "small", Path: []string{"small"}, Size: 3}})
	out := bytes.NewBuffer(make([]byte, 0, 64<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Write(t.Context(), out, Zip, files, zeros); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("allocated %d bytes", n)
	}
	z, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil || len(z.File) != 2 || z.File[0].UncompressedSize64 != size || z.File[1].UncompressedSize64 != 3 {
		t.Fatal(err)
	}
}

// TestNoEnd: an archive that did not become whole does not look like it.
func TestNoEnd(t *testing.T) {
	broken := errors.New("broken")
	files := Place([]File{{ID: "a", Path: []string{"a"}, Size: 1 << 20}, {ID: "b", Path: []string{"b"}, Size: 1 << 20}})
	for _, format := range formats {
		for name, open := range map[string]func(context.Context, File) (io.ReadCloser, error){
			"gone": func(ctx context.Context, f File) (io.ReadCloser, error) {
				if f.ID == "b" {
					return nil, broken
				}
				return zeros(ctx, f)
			},
			"cut": func(ctx context.Context, f File) (io.ReadCloser, error) {
				if f.ID == "b" {
					return io.NopCloser(io.MultiReader(strings.NewReader("begin"), errReader{broken})), nil
				}
				return zeros(ctx, f)
			},
		} {
			var out bytes.Buffer
			if err := Write(t.Context(), &out, format, files, open); !errors.Is(err, broken) || !strings.Contains(err.Error(), `"b"`) {
				t.Errorf("%s %s: %v", format, name, err)
			}
			if _, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len())); format == Zip && err == nil {
				t.Errorf("%s: it can be read", name)
			}
			if d, err := zstd.NewReader(&out); format == TarZstd && err == nil {
				if _, err := io.Copy(io.Discard, d); err == nil {
					t.Errorf("%s: it can be read", name)
				}
				d.Close()
			}
		}
		short := func(ctx context.Context, f File) (io.ReadCloser, error) { return zeros(ctx, File{Size: f.Size - 1}) }
		if err := Write(t.Context(), io.Discard, format, files, short); fault.Of(err) != fault.Temporary {
			t.Errorf("%s: too short: %v", format, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Write(ctx, io.Discard, format, files, zeros); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: canceled: %v", format, err)
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestFormats(t *testing.T) {
	for name, want := range map[string]Format{"x.zip": Zip, "dir/x.tar.zst": TarZstd, "zip": "", "x.tar": "", "x": ""} {
		if got := FormatOf(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, err := ParseFormat("rar"); fault.Of(err) != fault.Usage {
		t.Error(err)
	}
}
