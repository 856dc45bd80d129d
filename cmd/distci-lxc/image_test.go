package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/image"
)

// imageTest calls "distci-lxc image" with the images in a folder of its own.
type imageTest struct {
	t   *testing.T
	dir string
}

func newImageTest(t *testing.T) imageTest {
	i := imageTest{t, t.TempDir()}
	t.Setenv("XDG_CONFIG_HOME", i.dir)
	t.Setenv("DISTCI_IMAGES", filepath.Join(i.dir, "images"))
	return i
}

// call expects a status, and returns what went to the standard output and the
// standard error.
func (i imageTest) call(status int, args ...string) (out, errs string) {
	i.t.Helper()
	var stdout, stderr bytes.Buffer
	if got := imageCommand(i.t.Context(), args, &stdout, &stderr); got != status {
		i.t.Errorf("%v: status %d, want %d: %s", args, got, status, &stderr)
	}
	return stdout.String(), stderr.String()
}

// archive writes a tar with a device and a file of these contents.
func (i imageTest) archive(body string) (file string) {
	i.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, err := range []error{
		w.WriteHeader(&tar.Header{Name: "dev/null", Typeflag: tar.TypeChar}),
		w.WriteHeader(&tar.Header{Name: "etc/os-release", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}),
		func() error { _, err := io.WriteString(w, body); return err }(), w.Close(),
	} {
		if err != nil {
			i.t.Fatal(err)
		}
	}
	file = filepath.Join(i.t.TempDir(), "system.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		i.t.Fatal(err)
	}
	return file
}

func (i imageTest) says(what, text string) {
	i.t.Helper()
	if !strings.Contains(text, what) {
		i.t.Errorf("%q does not say %q", text, what)
	}
}

// TestImages is the life of two images.
func TestImages(t *testing.T) {
	i := newImageTest(t)
	out, _ := i.call(0, "list")
	if !strings.HasPrefix(out, "NAME ") || strings.Count(out, "\n") != 1 {
		t.Errorf("list of nothing: %q", out)
	}
	digest, errs := i.call(0, "import", "one", i.archive("1"))
	i.says(`left out: "dev/null": a device`, errs)
	if len(digest) != len("sha256:\n")+64 {
		t.Errorf("printed %q", digest)
	}
	i.call(0, "import", "two", i.archive("2"))

	used, err := image.At(filepath.Join(i.dir, "images")).Open("one")
	if err != nil {
		t.Fatal(err)
	}
	out, _ = i.call(0, "list")
	for k, want := range []string{"NAME DIGEST SIZE CREATED IN USE", "one " + digest[:19] + " 1 MB", "two "} {
		line := strings.Join(strings.Fields(strings.Split(out, "\n")[k]), " ")
		if !strings.HasPrefix(line, want) || k == 1 && !strings.HasSuffix(line, " yes") || k == 2 && !strings.HasSuffix(line, " no") {
			t.Errorf("line %d: %q", k, line)
		}
	}
	out, _ = i.call(0, "list", "--json")
	var info image.Info
	if err := json.Unmarshal([]byte(strings.Split(out, "\n")[0]), &info); err != nil || info.Name != "one" || info.Digest+"\n" != digest || !info.InUse || info.Size != 1 {
		t.Errorf("%+v, %v", info, err)
	}
	out, _ = i.call(0, "show", "two")
	if err := json.Unmarshal([]byte(out), &info); err != nil || info.Name != "two" || info.InUse {
		t.Errorf("%+v, %v", info, err)
	}
	_, errs = i.call(75, "remove", "two", "one")
	i.says("one is in use", errs)
	i.call(0, "show", "two")
	i.call(0, "verify")

	tree := used.Path()
	if err := os.WriteFile(filepath.Join(tree, "etc/os-release"), []byte("3"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, errs = i.call(78, "verify")
	i.says("verify one: damaged", errs)
	i.says("etc/os-release", errs)
	i.call(0, "verify", "two")
	used.Close()
	i.call(0, "import", "one", i.archive("1"))
	out, _ = i.call(0, "verify", "--verbose")
	if out != "" {
		t.Errorf("printed %q", out)
	}
	i.call(0, "remove", "one", "two")
	i.call(0, "remove")
	if out, _ = i.call(0, "list", "--json"); out != "" {
		t.Errorf("printed %q", out)
	}
}

func TestImageErrors(t *testing.T) {
	i := newImageTest(t)
	broken := filepath.Join(i.dir, "broken.tar.gz")
	if err := os.WriteFile(broken, []byte("\x1f\x8bxxxxxxxxxxxxx"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"", 64, "no command (see distci-lxc image --help)"},
		{"mount", 64, `unknown command "mount"`},
		{"list x", 64, "wrong number of arguments: 1 (see distci-lxc image list --help)"},
		{"import one", 64, "wrong number of arguments"},
		{"import One " + broken, 64, `"One" is no name`},
		{"import one nothing", 64, "nothing: no such file"},
		{"import one " + broken, 65, "broken.tar.gz: workspace: unpack: not a valid archive"},
		{"import one " + broken + " --ref x", 64, "no OCI layout"},
		{"build one --suite --x", 64, "no name of a suite"},
		{"build one --mirror x", 64, "no mirror"},
		{"build one --include a;b", 64, "no name of a package"},
		{"show one", 69, "no such image: one"},
		{"verify one", 69, "no such image: one"},
		{"remove one", 69, "no such image: one"},
		{"remove ../one", 64, `"../one" is no name`},
	} {
		_, errs := i.call(c.status, strings.Fields(c.args)...)
		i.says(c.says, errs)
		if strings.Count(errs, "\n") != 1 && !strings.Contains(errs, "not root") {
			t.Errorf("%s: more than one line: %q", c.args, errs)
		}
	}
	out, _ := i.call(0, "--help")
	i.says("verify [NAME…]", out)
	i.says("See distci-lxc-image(1).", out)
}
