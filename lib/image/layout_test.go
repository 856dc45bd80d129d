package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

type object = map[string]any

// testLayout is an OCI layout that is being made.
type testLayout struct {
	t   testing.TB
	dir string
}

func newLayout(t testing.TB) testLayout {
	t.Helper()
	l := testLayout{t, t.TempDir()}
	l.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l testLayout) write(name string, b []byte) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), b, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// blob stores b and returns its descriptor.
func (l testLayout) blob(typ string, b []byte) object {
	l.t.Helper()
	l.write(blob(digestOf(b)), b)
	return object{"mediaType": typ, "digest": digestOf(b), "size": len(b)}
}

func (l testLayout) json(typ string, v object) object {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(typ, b)
}

// image stores a manifest with these layers for an architecture, and returns
// its descriptor.
func (l testLayout) image(arch string, layers ...object) object {
	l.t.Helper()
	ids := make([]string, len(layers))
	config := l.json("application/vnd.oci.image.config.v1+json", object{"os": "linux", "architecture": arch,
		"config": object{"Env": []string{"PATH=/opt/bin:/bin"}}, "rootfs": object{"type": "layers", "diff_ids": ids}})
	return l.json(manifestTypes[0], object{"schemaVersion": 2, "config": config, "layers": layers})
}

// index writes index.json.
func (l testLayout) index(manifests ...object) {
	l.t.Helper()
	b, err := json.Marshal(object{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("index.json", b)
}

func with(d object, more object) object {
	d = maps.Clone(d)
	maps.Copy(d, more)
	return d
}

func called(name string) object { return object{"annotations": object{refName: name}} }

func onlyFor(arch string) object {
	return object{"platform": object{"os": "linux", "architecture": arch}}
}

func (l testLayout) importInto(s *Store, ref string) (*Info, error) {
	l.t.Helper()
	src, err := From(l.dir, ref)
	if err != nil {
		return nil, err
	}
	return s.Import(l.t.Context(), "a", src, func(string) {})
}

// layers are the two layers of a small system.
func (l testLayout) layers() []object {
	return []object{
		l.blob(layerTypes[1], gzipped(l.t, system(l.t, "1"))),
		l.blob(layerTypes[2], zstded(l.t, tarOf(l.t, ent{name: "usr/bin/.wh.true"}, ent{name: "etc/release", body: "2"}, ent{name: "dev/null", h: tar.Header{Typeflag: tar.TypeChar}}))),
		l.blob(layerTypes[0], tarOf(l.t, ent{name: "etc/.wh..wh..opq"}, ent{name: "etc/new", body: "3"})),
	}
}

func TestLayout(t *testing.T) {
	s := newStore(t)
	l := newLayout(t)
	l.index(l.image(runtime.GOARCH, l.layers()...))
	info, err := l.importInto(s, "")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(info.Env, []string{"PATH=/opt/bin:/bin"}) {
		t.Errorf("environment %q", info.Env)
	}
	root := filepath.Join(s.tree(info.Digest), "rootfs")
	for path, want := range map[string]string{"etc/new": "3", "usr/bin/yes": "#!", "etc/release": "", "usr/bin/true": "", "dev/null": ""} {
		b, err := os.ReadFile(filepath.Join(root, path))
		if (err == nil) != (want != "") || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if to, err := os.Readlink(filepath.Join(root, "bin")); to != "/usr/bin" {
		t.Errorf("bin leads to %q, %v", to, err)
	}
}

// TestChoice: which image of a layout is taken, or why none.
func TestChoice(t *testing.T) {
	other := map[bool]string{true: "arm64", false: "amd64"}[runtime.GOARCH == "amd64"]
	l := newLayout(t)
	layers := l.layers()
	one, two := l.image(runtime.GOARCH, layers[0]), l.image(runtime.GOARCH, layers[0], layers[1])
	foreign := l.image(other, layers[0])
	index := func(manifests ...object) object {
		return l.json(indexTypes[0], object{"schemaVersion": 2, "manifests": manifests})
	}
	attestation := with(l.image("unknown", layers[0]), object{"platform": object{"os": "unknown", "architecture": "unknown"}})
	here := onlyFor(runtime.GOARCH)
	variant := with(two, object{"platform": object{"os": "linux", "architecture": runtime.GOARCH, "variant": "v9"}})
	nested := index(with(one, here))
	for range maxNesting {
		nested = index(nested)
	}
	s := newStore(t)
	wantOne, wantTwo := put(t, s, "one", system(t, "1")).Digest, ""
	for _, c := range []struct {
		name  string
		index []object
		ref   string
		two   bool
		err   string
		kind  fault.Kind
	}{
		{name: "only one", index: []object{one}},
		{name: "by name", index: []object{with(one, called("x")), with(two, called("y"))}, ref: "y", two: true},
		{name: "by its full name", index: []object{with(one, object{"annotations": object{fullName: "example.org/x:1"}}), two}, ref: "example.org/x:1"},
		{name: "the same twice", index: []object{with(one, called("x")), with(one, called("y"))}},
		{name: "no name given", index: []object{with(one, called("x")), with(two, called("y"))}, err: `name one of them: "x", "y"`, kind: fault.Usage},
		{name: "unknown name", index: []object{with(one, called("x"))}, ref: "z", err: `no image "z", but "x"`, kind: fault.Unavailable},
		{name: "unknown name, none has one", index: []object{one}, ref: "z", err: "none with a name", kind: fault.Unavailable},
		{name: "this platform", index: []object{with(foreign, onlyFor(other)), with(one, here), attestation}},
		{name: "in an index", index: []object{with(index(with(foreign, onlyFor(other)), with(two, here)), called("x"))}, ref: "x", two: true},
		{name: "another platform", index: []object{with(foreign, onlyFor(other))}, err: "linux/" + other, kind: fault.Unavailable},
		{name: "another platform, found out late", index: []object{foreign}, err: "linux/" + other, kind: fault.Unavailable},
		{name: "variants", index: []object{variant, with(one, here)}},
		{name: "nothing apart", index: []object{one, two}, err: "nothing tells apart", kind: fault.BadTicket},
		{name: "none", index: nil, err: "no image", kind: fault.BadTicket},
		{name: "no images", index: []object{l.blob("text/plain", nil)}, err: "no image", kind: fault.BadTicket},
		{name: "index in index", index: []object{nested}, err: "one in the other", kind: fault.BadTicket},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := testLayout{t, l.dir}
			l.index(c.index...)
			info, err := l.importInto(s, c.ref)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || fault.Of(err) != c.kind {
					t.Errorf("%s: %v", fault.Of(err), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.two && wantTwo == "" {
				wantTwo = info.Digest
			}
			if want := map[bool]string{false: wantOne, true: wantTwo}[c.two]; info.Digest != want || c.two && want == wantOne {
				t.Errorf("took %s, want %s", info.Digest, want)
			}
		})
	}
}

// TestBrokenLayouts: what is not as described is refused, and the store stays
// as it was.
func TestBrokenLayouts(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, system(t, "secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	arch := runtime.GOARCH
	path := func(l testLayout, d object) string { return filepath.Join(l.dir, blob(d["digest"].(string))) }
	for name, c := range map[string]struct {
		make func(l testLayout)
		want string
	}{
		"no index":    {func(l testLayout) {}, "not a complete layout"},
		"not JSON":    {func(l testLayout) { l.write("index.json", []byte("[")) }, "not an index"},
		"version":     {func(l testLayout) { l.write("index.json", []byte(`{"schemaVersion":1}`)) }, "version 1"},
		"large index": {func(l testLayout) { l.write("index.json", make([]byte, maxDocument+1)) }, "more than"},
		"index is a pipe": {func(l testLayout) {
			if err := unix.Mkfifo(filepath.Join(l.dir, "index.json"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		"path for a digest": {func(l testLayout) {
			l.index(object{"mediaType": manifestTypes[0], "digest": "sha256:../../../secret", "size": 1})
		}, "no digest"},
		"no manifest":    {func(l testLayout) { l.index(object{"mediaType": manifestTypes[0], "digest": digestOf(nil), "size": 0}) }, "not a complete layout"},
		"large manifest": {func(l testLayout) { l.index(with(l.image(arch, l.layers()...), object{"size": maxDocument + 1})) }, "at most"},
		"negative size":  {func(l testLayout) { l.index(with(l.image(arch, l.layers()...), object{"size": -1})) }, "-1 bytes"},
		"wrong size":     {func(l testLayout) { l.index(with(l.image(arch, l.layers()...), object{"size": 3})) }, "damaged"},
		"layer changed": {func(l testLayout) {
			layers := l.layers()
			l.index(l.image(arch, layers...))
			b := gzipped(t, system(t, "9"))
			if err := os.WriteFile(path(l, layers[0]), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "layer 1 (sha256:"},
		"a byte of a layer": {func(l testLayout) {
			layers := l.layers()
			l.index(l.image(arch, layers...))
			b, err := os.ReadFile(path(l, layers[2]))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path(l, layers[2]), bytes.Replace(b, []byte("\x003\x00"), []byte("\x004\x00"), 1), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "damaged"},
		"layer longer": {func(l testLayout) {
			layers := l.layers()
			l.index(l.image(arch, layers...))
			b, err := os.ReadFile(path(l, layers[2]))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path(l, layers[2]), append(b, 0), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "damaged"},
		"layer is a link out": {func(l testLayout) {
			layers := l.layers()
			l.index(l.image(arch, layers...))
			if err := errors.Join(os.Remove(path(l, layers[0])), os.Symlink(secret, path(l, layers[0]))); err != nil {
				t.Fatal(err)
			}
		}, "path escapes"},
		"layer of another type": {func(l testLayout) { l.index(l.image(arch, with(l.layers()[0], object{"mediaType": "application/x"}))) }, `unknown type "application/x"`},
		"no layers":             {func(l testLayout) { l.index(l.image(arch)) }, "without layers"},
		"hostile layer": {func(l testLayout) {
			l.index(l.image(arch, l.layers()[0], l.blob(layerTypes[0], tarOf(t, ent{name: "bin/../../x"}))))
		}, `layer 2 (sha256:`},
		"through a link of the layer below": {func(l testLayout) {
			l.index(l.image(arch, l.layers()[0], l.blob(layerTypes[0], tarOf(t, ent{name: "bin/x"}))))
		}, `"bin/x"`},
		"configuration of other layers": {func(l testLayout) {
			config := l.json("application/vnd.oci.image.config.v1+json", object{"os": "linux", "architecture": arch})
			l.index(l.json(manifestTypes[0], object{"schemaVersion": 2, "config": config, "layers": l.layers()}))
		}, "0 layers, the manifest of 3"},
		"not an image of a system": {func(l testLayout) {
			config := l.json("application/vnd.oci.empty.v1+json", object{})
			l.index(l.json(manifestTypes[0], object{"schemaVersion": 2, "config": config, "layers": l.layers()}))
		}, "the image is for"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			l := newLayout(t)
			c.make(l)
			if _, err := l.importInto(s, ""); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
			expect(t, s, "sha256:0 tmp:0")
		})
	}
}

// TestLimitsOfAllLayers: they hold for the layers together.
func TestLimitsOfAllLayers(t *testing.T) {
	s := newStore(t)
	s.limits.Bytes = 20_000
	l := newLayout(t)
	part := func(name string) object {
		return l.blob(layerTypes[0], tarOf(t, ent{name: name, body: strings.Repeat("x", 9000)}))
	}
	l.index(l.image(runtime.GOARCH, part("a"), part("b")))
	if _, err := l.importInto(s, ""); err == nil || !strings.Contains(err.Error(), "over the limit") {
		t.Error(err)
	}
	s.limits.Bytes = 40_000
	if _, err := l.importInto(s, ""); err != nil {
		t.Error(err)
	}
}

// TestStandardLayout takes a layout that umoci has made, and skopeo has copied
// if that is installed.
func TestStandardLayout(t *testing.T) {
	if _, err := exec.LookPath("umoci"); err != nil {
		t.Skip("umoci is not installed")
	}
	if os.Geteuid() != 0 {
		t.Skip("umoci needs root")
	}
	dir := t.TempDir()
	run := func(program string, args ...string) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", program, args, err, out)
		}
	}
	run("umoci", "init", "--layout", "l")
	run("umoci", "new", "--image", "l:base")
	run("umoci", "config", "--image", "l:base", "--config.env", "A=b")
	run("umoci", "unpack", "--image", "l:base", "bundle")
	root := filepath.Join(dir, "bundle/rootfs")
	untar(t, root, system(t, "1"))
	run("umoci", "repack", "--refresh-bundle", "--image", "l:one", "bundle")
	if err := errors.Join(os.Remove(filepath.Join(root, "usr/bin/true")), os.WriteFile(filepath.Join(root, "etc/new"), []byte("x"), 0o640), os.Chown(filepath.Join(root, "etc/new"), 12, 34)); err != nil {
		t.Fatal(err)
	}
	run("umoci", "repack", "--image", "l:two", "bundle")
	layouts := []string{"l"}
	if _, err := exec.LookPath("skopeo"); err == nil {
		run("skopeo", "--insecure-policy", "copy", "oci:l:two", "oci:copy:two")
		layouts = append(layouts, "copy")
	}

	s := newStore(t)
	var digests []string
	for _, name := range layouts {
		src, err := From(filepath.Join(dir, name), "two")
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Import(t.Context(), "a", src, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, info.Digest)
		if !slices.Contains(info.Env, "A=b") {
			t.Errorf("environment %q", info.Env)
		}
	}
	if len(slices.Compact(digests)) != 1 {
		t.Errorf("digests %v", digests)
	}
	// What it unpacks to is what the tool's own folder has.
	src, err := From(root, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), "folder", src, func(string) {}); err != nil {
		t.Fatal(err)
	}
	a, err := s.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := s.Open("folder")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if x, y := inventory(t, a), inventory(t, b); x != y {
		t.Errorf("the layout gives\n%s\nthe folder\n%s", x, y)
	}
}

// inventory is a manifest without times, of which layers have whole seconds
// only.
func inventory(t *testing.T, i *Image) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(i.path, "manifest"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		f[4] = ""
		fmt.Fprintln(&out, strings.Join(f, " "))
	}
	return out.String()
}

// FuzzLayoutDocuments: whatever an index and a manifest say, what is read of
// them refers to nothing but files named by digests.
func FuzzLayoutDocuments(f *testing.F) {
	l := newLayout(f)
	image := l.image("amd64", l.layers()...)
	b, err := os.ReadFile(filepath.Join(l.dir, blob(image["digest"].(string))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, "")
	l.index(with(image, called("x")), with(image, onlyFor("arm64")))
	if b, err = os.ReadFile(filepath.Join(l.dir, "index.json")); err != nil {
		f.Fatal(err)
	}
	f.Add(b, "x")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"platform":null,"digest":"sha256:.."}]}`), "")
	f.Add([]byte(`null`), "x")
	safe := func(t *testing.T, d descriptor) {
		if p := blob(d.Digest); len(p) != len("blobs/sha256/")+64 || strings.Contains(p, "..") || d.Size < 0 {
			t.Errorf("%+v", d)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, ref string) {
		list, err := parseIndex(b)
		if err == nil {
			for _, d := range list {
				safe(t, d)
			}
			d, err := choose(list, ref, platform{OS: "linux", Architecture: "amd64"})
			if err == nil {
				safe(t, d)
			} else if len(err.Error()) > 20_000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		} else if fault.Of(err) != fault.BadTicket {
			t.Error(err)
		}
		m, err := parseManifest(b)
		if err != nil {
			if fault.Of(err) != fault.BadTicket {
				t.Error(err)
			}
			return
		}
		safe(t, m.Config)
		for _, d := range m.Layers {
			safe(t, d)
		}
	})
}
