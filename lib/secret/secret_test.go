package secret

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, value := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestGet(t *testing.T) {
	v, err := Open(folder(t, map[string]string{"_all/A": "for all\n", "deploy/A": "deploy's", "deploy/B.pem": "b", "other/C": "c"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ job, names, want string }{
		{"deploy", "A B.pem A", "[A=deploy's B.pem=b]"},
		{"other", "A C", "[A=for all\n C=c]"},
		{"", "A", "[A=for all\n]"},
		{"new", "A", "[A=for all\n]"},
	} {
		secrets, err := v.Get(c.job, strings.Fields(c.names))
		var got []string
		for _, s := range secrets {
			got = append(got, s.Name+"="+string(s.Value))
		}
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%s of %q: %q, %v", c.names, c.job, got, err)
		}
	}
}

// TestNotGranted: naming a secret is not enough to get it, however it is named.
func TestNotGranted(t *testing.T) {
	v, err := Open(folder(t, map[string]string{"_all/A": "a", "deploy/B": "b", "TOP": "x", "deploy.d/E": "e"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		job, name, want string
		kind            fault.Kind
	}{
		{"other", "B", `secret "B" of job "other": this worker's operator has not granted it; to do so, put it into the file other/B or _all/B of the folder --secrets`, fault.Config},
		{"", "B", `secret "B" of a ticket that is no step of a build: this worker's operator has not granted it; to do so, put it into the file _all/B`, fault.Config},
		{"", "TOP", "_all/TOP", fault.Config},
		{"other", "../deploy/B", "expected a name", fault.BadTicket},
		{"other", "", "expected a name", fault.BadTicket},
		{"other", "..", "expected a name", fault.BadTicket},
		{"other", "B\x00", "expected a name", fault.BadTicket},
		{"other", strings.Repeat("A", 65), "expected a name", fault.BadTicket},
		{"..", "TOP", "no secret is for a job of that name", fault.BadTicket},
		{".", "TOP", "no secret is for a job of that name", fault.BadTicket},
		{"deploy.d", "E", "no secret is for a job of that name", fault.BadTicket},
		{"x/../deploy", "B", "no secret is for a job of that name", fault.BadTicket},
	} {
		secrets, err := v.Get(c.job, []string{c.name})
		if fault.Of(err) != c.kind || !strings.Contains(err.Error(), c.want) || secrets != nil {
			t.Errorf("%q of %q: %v, (%s) %v; want %q", c.name, c.job, secrets, fault.Of(err), err, c.want)
		}
	}
	for _, none := range []*Vault{nil, {}} {
		if _, err := none.Get("deploy", []string{"B"}); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "this worker has none; its operator can give it some with --secrets") {
			t.Errorf("without a folder: %v", err)
		}
		if s, err := none.Get("deploy", nil); s != nil || err != nil {
			t.Errorf("nothing of nothing: %v, %v", s, err)
		}
	}
}

// TestUnsafe: what others can read is no secret, and what others can write to
// does not tell what the operator wants.
func TestUnsafe(t *testing.T) {
	files := map[string]string{"j/A": "a"}
	for name, c := range map[string]struct {
		do   func(dir string) error
		want string
	}{
		"readable":         {func(d string) error { return os.Chmod(d+"/j/A", 0o640) }, "j/A: others may read or change it, its mode is 0640; expected 0600 or less"},
		"folder":           {func(d string) error { return os.Chmod(d+"/j", 0o770) }, "j/A: others may write to the folder, its mode is 0770"},
		"top folder":       {func(d string) error { return os.Chmod(d, 0o702) }, "others may write to the folder"},
		"empty":            {func(d string) error { return os.Truncate(d+"/j/A", 0) }, "j/A: it is empty"},
		"large":            {func(d string) error { return os.Truncate(d+"/j/A", MaxSize+1) }, "j/A: it is larger than 65536 bytes"},
		"no file":          {func(d string) error { os.Remove(d + "/j/A"); return os.Mkdir(d+"/j/A", 0o700) }, "j/A: not a file"},
		"no folder":        {func(d string) error { os.RemoveAll(d + "/j"); return os.WriteFile(d+"/j", nil, 0o600) }, "j/A: not a folder"},
		"another's":        {func(d string) error { return os.Chown(d+"/j/A", 12345, -1) }, "j/A: it belongs to another user"},
		"folder another's": {func(d string) error { return os.Chown(d+"/j", 12345, -1) }, "j/A: the folder belongs to another user"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, files)
			v, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.do(dir); err != nil {
				t.Skip(err) // only root can give files away
			}
			_, err = v.Get("j", []string{"A"})
			if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), dir) {
				t.Errorf("%v; want %q, and not the folder's place", err, c.want)
			}
		})
	}
	dir := folder(t, files)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: dir + ": others may write", dir + "/none": "no such file", dir + "/j/A": "not a folder"} {
		if _, err := Open(path); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func TestTooMuchTogether(t *testing.T) {
	files := map[string]string{}
	var names []string
	for i := range MaxTotal/MaxSize + 1 {
		names = append(names, fmt.Sprint("S", i))
		files["j/"+names[i]] = strings.Repeat("x", MaxSize)
	}
	v, err := Open(folder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get("j", names); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "together") {
		t.Error(err)
	}
	if s, err := v.Get("j", names[1:]); err != nil || len(s) != len(names)-1 {
		t.Error(len(s), err)
	}
}

// inMemory is a folder in a file system that is in memory, for one test.
func inMemory(t *testing.T) string {
	t.Helper()
	m := NewMemory()
	base, err := m.base()
	if err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp(base, "distci-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestMemory(t *testing.T) {
	base := inMemory(t)
	m := &Memory{bases: []string{"/proc", base}}
	entries := func() int {
		e, err := os.ReadDir(base)
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	if entries() != 0 {
		t.Error("it is made before it is needed")
	}
	one, remove, err := m.Put([]Secret{{"A", []byte("a\n")}, {"B", []byte("b")}})
	if err != nil {
		t.Fatal(err)
	}
	two, _, err := m.Put([]Secret{{"A", []byte("other")}})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(one + "/A"); string(b) != "a\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	for path, mode := range map[string]os.FileMode{filepath.Dir(one): 0o700, one: 0o700, one + "/A": 0o400} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(one); err == nil {
		t.Error("it is there after the step")
	}
	// Another process's start leaves alone what is in use.
	if err := (&Memory{bases: []string{base}}).Clean(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(two + "/A"); !bytes.Equal(b, []byte("other")) {
		t.Errorf("%q, %v", b, err)
	}
	if err := m.Close(); err != nil || entries() != 0 {
		t.Errorf("%d folders left, %v", entries(), err)
	}
}

// TestClean: what a process has left that was killed is removed.
func TestClean(t *testing.T) {
	base := inMemory(t)
	dead := &Memory{bases: []string{base}}
	dir, _, err := dead.Put([]Secret{{"A", []byte("a")}})
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(base, "other")
	link := filepath.Join(base, folderPrefix+"link")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(foreign, link); err != nil {
		t.Fatal(err)
	}
	dead.lock.Close() // as its death does
	if err := (&Memory{bases: []string{base, "/nonexistent"}}).Clean(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it is still there")
	}
	for _, path := range []string{foreign, link} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestNoMemory(t *testing.T) {
	m := &Memory{bases: []string{"/proc"}}
	if _, _, err := m.Put(nil); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "there is no tmpfs on this worker to hold them: tried [/proc]") {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
