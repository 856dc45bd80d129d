package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/fault"
)

func TestManySmallFiles(t *testing.T) {
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("d%d/e%d/f%d", i%7, i%11, i))
	}
	ws := tree(t, names...)
	s, server := over(t)
	o := PublishOptions{Workspace: ws, Globs: []string{"**"}, Jobs: 16, Log: discard}
	done, err := Publish(t.Context(), o, server)
	if err != nil || len(done) != 500 || s.posts != 500 {
		t.Fatal(len(done), s.posts, err)
	}
	for _, a := range done {
		a, id := a, a.ID
		a.ID = ""
		s.list[id] = a
	}
	back := t.TempDir()
	if err := Copy(t.Context(), CopyOptions{Workspace: back, Globs: []string{"*"}, Jobs: 16, Log: discard}, server); err != nil {
		t.Fatal(err)
	}
	same(t, ws, back)
	same(t, ws, folder(t, ws, "**"))
}

func TestTooManyFiles(t *testing.T) {
	names := make([]string, 12_000)
	for i := range names {
		names[i] = fmt.Sprintf("some/folder/with/a/name/file-%05d", i)
	}
	if err := fits(names); fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), "12000 files") {
		t.Error(err)
	}
	if err := fits(names[:6000]); err != nil {
		t.Error(err)
	}
}

// TestLargeFile: memory does not grow with the file.
func TestLargeFile(t *testing.T) {
	const size = 200 << 20
	ws, to, back := t.TempDir(), t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(ws, "large"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), size); err != nil {
		t.Skip(err) // no room for it here
	}
	f.Close()
	discarding := client.Over(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		json.NewEncoder(w).Encode(Artifact{ID: "a", Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))})
	}))
	defer discarding.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := publish(t, ws, &Server{Client: discarding, Job: "j", Build: 7}, "*"); err != nil {
		t.Fatal(err)
	}
	into, err := CreateFolder(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publish(t, ws, into, "*"); err != nil {
		t.Fatal(err)
	}
	into.Close()
	from, err := OpenFolder(to)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := copyAll(t, back, from, "*"); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("allocated %d bytes for three transfers of %d", n, size)
	}
	same(t, ws, back)
}

// TestDiskFull needs root for a small file system.
func TestDiskFull(t *testing.T) {
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a small file system:", err)
	}
	defer syscall.Unmount(small, 0)
	ws := t.TempDir()
	data := bytes.Repeat([]byte("x"), 3<<20)
	if err := os.WriteFile(filepath.Join(ws, "a"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := CreateFolder(t.Context(), small)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publish(t, ws, f, "a"); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "no space left") {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	s, server := over(t)
	s.add("a", data)
	if err := copyAll(t, small, server, "a"); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "no space left") || s.gets != 1 {
		t.Error(s.gets, err)
	}
	entries, _ := os.ReadDir(small)
	if len(entries) != 1 || entries[0].Name() != indexName {
		t.Error("left behind:", entries)
	}
}
