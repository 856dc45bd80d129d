package worker

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestFoldersOfTheDead: what a worker has left goes, however little it had made
// of it or half removed; what one holds stays.
func TestFoldersOfTheDead(t *testing.T) {
	dir := t.TempDir()
	held, lock, err := ownDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	dead, its, err := ownDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dead, "0", "workspace"), 0o700); err != nil {
		t.Fatal(err)
	}
	its.Close()
	if err := os.Mkdir(filepath.Join(dir, "just made"), 0o700); err != nil {
		t.Fatal(err)
	}
	clean(dir, slog.New(slog.DiscardHandler))
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 1 || left[0] != held {
		t.Errorf("left: %q, want %q", left, held)
	}
	if _, err := lockDir(held); err == nil {
		t.Error("two hold the same folder")
	}
}
