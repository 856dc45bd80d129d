package local

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// names lists the folder of a coordination file.
func names(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// edit changes a closed file with SQL.
func edit(t *testing.T, path, stmt string) {
	t.Helper()
	u := url.URL{Scheme: "file", Path: path}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(stmt); err != nil {
		t.Fatal(err)
	}
}

// made makes a coordination file and closes it.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "new folder", "100%?#.db")
	c, err := openSpec(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Txn(t.Context(), coord.Create("/a", nil), coord.CreateEphemeral("/e", nil)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFiles(t *testing.T) {
	path := made(t)
	base := filepath.Base(path)
	if got := names(t, path); !slices.Equal(got, []string{base, base + "-gate"}) {
		t.Errorf("after the last close there are %q", got)
	}
	for p, want := range map[string]os.FileMode{path: 0o600, path + "-gate": 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
		if st, err := os.Stat(p); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", p, st.Mode(), err, want)
		}
	}
	c, err := openSpec(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := c.Children(t.Context(), "/"); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("opened again: %q, %v", got, err)
	}
}

// TestRefused opens what is not, or not any more, a file of ours: each time
// the error says so, names it, and the file is as it was.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, says string }{
		{"text", "not a coordination file"},
		{"empty", "not a coordination file"},
		{"foreign", "not a coordination file"},
		{"newer", "format 2 is newer"},
		{"truncated", "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file.db")
			switch c.name {
			case "text":
				os.WriteFile(path, []byte("dear diary\n"), 0o600)
			case "empty":
				os.WriteFile(path, nil, 0o600)
			case "foreign":
				edit(t, path, `create table diary(day text)`)
			case "newer":
				path = made(t)
				edit(t, path, `pragma user_version=2`)
			case "truncated":
				path = made(t)
				if err := os.Truncate(path, 5000); err != nil {
					t.Fatal(err)
				}
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := names(t, path)
			conn, err := openSpec(t.Context(), path, 0)
			if err == nil {
				conn.Close()
			}
			if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("open: %v (%s)", err, fault.Of(err))
			}
			if after, _ := os.ReadFile(path); !slices.Equal(before, after) {
				t.Error("the file was changed")
			}
			if got := names(t, path); !slices.Equal(got, files) {
				t.Errorf("there were %q, now %q", files, got)
			}
		})
	}
}

func TestPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(file, "coord.db"), "/proc/coord.db", "/proc/none/coord.db"} {
		if _, err := openSpec(t.Context(), path, 0); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), filepath.Dir(path)) {
			t.Errorf("open %s: %v (%s)", path, err, fault.Of(err))
		}
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "x"), Options{SessionTimeout: -1}); fault.Of(err) != fault.Config {
		t.Errorf("a negative time-out: %v", err)
	}
}

// TestDamaged meets the damage only when it reads or writes that place.
func TestDamaged(t *testing.T) {
	path := made(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 4096; i < 4096*4 && i < len(b); i++ { // the nodes and their indexes
		b[i] = 0xa5
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := openSpec(t.Context(), path, 0)
	if err == nil {
		defer c.Close()
		_, _, err = c.Get(t.Context(), "/a")
	}
	if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), path+": damaged") {
		t.Errorf("%v (%s)", err, fault.Of(err))
	}
}

// TestFull bounds the file as a full disk would.
func TestFull(t *testing.T) {
	c, ctx := open(t), t.Context()
	if _, err := c.Txn(ctx, coord.Create("/a", []byte("old"))); err != nil {
		t.Fatal(err)
	}
	l := c.(*conn).file.write
	if _, err := l.exec(`pragma max_page_count=20`); err != nil {
		t.Fatal(err)
	}
	_, err := c.Txn(ctx, coord.Set("/a", []byte("new"), 0), coord.Create("/b", make([]byte, 200<<10)))
	if fault.Of(err) != fault.Temporary || errors.Is(err, coord.ErrUnknown) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v (%s)", err, fault.Of(err))
	}
	if data, _, err := c.Get(ctx, "/a"); string(data) != "old" || err != nil {
		t.Errorf("half of it was done: %q, %v", data, err)
	}
	if _, err := c.Txn(ctx, coord.Set("/a", []byte("new"), 0)); err != nil {
		t.Errorf("afterwards, something small: %v", err)
	}
}

// TestReboot finds sessions of another boot, whose deadlines mean nothing.
func TestReboot(t *testing.T) {
	path := made(t)
	edit(t, path, `update meta set boot='another'; insert into session values(7, 10, 9e18);
		insert into node values('/', 'old', 0, 1, 1, 1, 0, 7, 0, null); update node set children=children+1 where name='/'`)
	c, err := openSpec(t.Context(), path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := c.Children(t.Context(), "/"); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("after a reboot: %q, %v", got, err)
	}
	if _, stat, err := c.Get(t.Context(), "/"); err != nil || stat.NumChildren != 1 {
		t.Errorf("after a reboot: %+v, %v", stat, err)
	}
}

// TestStopped has another process keep the lock, as one that was stopped in
// the middle of a transaction.
func TestStopped(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "coord.db")
	c, err := openSpec(ctx, path, 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	other, err := openGate(path + "-gate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if err := other.lock(ctx, time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := c.Txn(short, coord.Create("/a", nil)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, coord.ErrUnknown) {
		t.Errorf("until its deadline: %v", err)
	}
	_, err = c.Txn(ctx, coord.Create("/a", nil))
	if fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "has kept the lock") {
		t.Errorf("without a deadline: %v (%s)", err, fault.Of(err))
	}
	if _, err := c.Children(ctx, "/"); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := unix.Flock(int(other.file.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	// The waiter that was left alone gives the lock back. The session may be
	// over by now, and this transaction with it.
	create := func(path string) {
		t.Helper()
		_, err := c.Txn(ctx, coord.Create(path, nil))
		if errors.Is(err, coord.ErrExpired) {
			_, err = c.Txn(ctx, coord.Create(path, nil))
		}
		if err != nil {
			t.Errorf("when the other goes on: %v", err)
		}
	}
	create("/a")
	// One that was stopped at the turnstile must stop nobody.
	for other.turnstile(unix.F_WRLCK) != nil {
		runtime.Gosched()
	}
	create("/b")
}
