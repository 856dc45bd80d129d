package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// An OCI image layout (OCI Image Format Specification 1.1, "Image Layout"):
// index.json names images, an image is a manifest, and that names its layers;
// all but the index are files named by their digests.

const (
	maxDocument = 4 << 20 // bytes of an index, a manifest or a configuration
	maxLayers   = 512
	maxNesting  = 4 // of indexes in indexes
	refName     = "org.opencontainers.image.ref.name"
	fullName    = "io.containerd.image.name"
)

// The media types; those of Docker mean the same.
var (
	indexTypes    = []string{"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
	manifestTypes = []string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
	layerTypes    = []string{
		"application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd",
	}
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

type platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

func (p platform) String() string {
	return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
}

// here is the platform of this machine.
func here() platform { return platform{OS: runtime.GOOS, Architecture: runtime.GOARCH} }

// fits tells whether what is for p runs on the machine. A variant is for the
// machine's owner to know.
func (p platform) fits(machine platform) bool {
	return p.OS == machine.OS && p.Architecture == machine.Architecture
}

func (d *descriptor) check() error {
	switch {
	case !validDigest(d.Digest):
		return fault.Errorf(fault.BadTicket, "%q is no digest of the kind sha256", d.Digest)
	case d.Size < 0:
		return fault.Errorf(fault.BadTicket, "%s: a size of %d bytes", d.Digest, d.Size)
	}
	return nil
}

// parseIndex reads an index and checks what it refers to.
func parseIndex(b []byte) ([]descriptor, error) {
	var index struct {
		SchemaVersion int          `json:"schemaVersion"`
		Manifests     []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fault.Errorf(fault.BadTicket, "not an index: %w", err)
	}
	if index.SchemaVersion != 2 {
		return nil, fault.Errorf(fault.BadTicket, "an index of version %d; expected 2", index.SchemaVersion)
	}
	for i := range index.Manifests {
		if err := index.Manifests[i].check(); err != nil {
			return nil, err
		}
	}
	return index.Manifests, nil
}

type manifestDocument struct {
	SchemaVersion int          `json:"schemaVersion"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// parseManifest reads an image's manifest and checks what it refers to.
func parseManifest(b []byte) (*manifestDocument, error) {
	var m manifestDocument
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fault.Errorf(fault.BadTicket, "not a manifest: %w", err)
	}
	switch {
	case m.SchemaVersion != 2:
		return nil, fault.Errorf(fault.BadTicket, "a manifest of version %d; expected 2", m.SchemaVersion)
	case len(m.Layers) == 0:
		return nil, fault.Errorf(fault.BadTicket, "a manifest without layers")
	case len(m.Layers) > maxLayers:
		return nil, fault.Errorf(fault.BadTicket, "a manifest with %d layers; at most %d are allowed", len(m.Layers), maxLayers)
	}
	if err := m.Config.check(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	for i := range m.Layers {
		l := &m.Layers[i]
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		if !slices.Contains(layerTypes, l.MediaType) {
			return nil, fault.Errorf(fault.BadTicket, "layer %d: of the unknown type %q", i+1, l.MediaType)
		}
	}
	return &m, nil
}

// choose picks the one image of an index that is called ref, if that is not
// empty, and is for the machine. One that does not tell its platform is for
// any.
func choose(list []descriptor, ref string, machine platform) (descriptor, error) {
	var refs, platforms []string
	var found []descriptor
	for _, d := range list {
		if !slices.Contains(indexTypes, d.MediaType) && !slices.Contains(manifestTypes, d.MediaType) {
			continue
		}
		names := []string{d.Annotations[refName], d.Annotations[fullName]}
		if ref != "" && !slices.Contains(names, ref) {
			refs = append(refs, names...)
			continue
		}
		if d.Platform != nil && !d.Platform.fits(machine) {
			platforms = append(platforms, d.Platform.String())
			continue
		}
		if !slices.ContainsFunc(found, func(f descriptor) bool { return f.Digest == d.Digest }) {
			found = append(found, d)
			refs = append(refs, names...)
		}
	}
	slices.Sort(refs)
	refs = slices.DeleteFunc(slices.Compact(refs), func(s string) bool { return s == "" })
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1 && len(refs) > 0 && ref == "":
		return descriptor{}, fault.Errorf(fault.Usage, "it holds several images; name one of them: %s", tell(refs))
	case len(found) > 1 && slices.ContainsFunc(found, func(d descriptor) bool { return d.Platform == nil }):
		return descriptor{}, fault.Errorf(fault.BadTicket, "it holds %d images that nothing tells apart", len(found))
	case len(found) > 1:
		return preferred(found), nil
	case len(platforms) > 0:
		return descriptor{}, fault.Errorf(fault.Unavailable, "it holds images for %s only; this machine is %s", tell(platforms), machine)
	case len(refs) > 0:
		return descriptor{}, fault.Errorf(fault.Unavailable, "it holds no image %q, but %s", ref, tell(refs))
	case ref != "":
		return descriptor{}, fault.Errorf(fault.Unavailable, "it holds no image %q, and none with a name", ref)
	}
	return descriptor{}, fault.Errorf(fault.BadTicket, "it holds no image")
}

// preferred is, of several for the machine, the one that asks least of it: the
// one without a variant, or the lowest.
func preferred(found []descriptor) descriptor {
	return slices.MinFunc(found, func(a, b descriptor) int { return strings.Compare(a.variant(), b.variant()) })
}

func (d *descriptor) variant() string {
	if d.Platform == nil {
		return ""
	}
	return d.Platform.Variant
}

// tell lists some of what an archive says of itself.
func tell(words []string) string {
	const most = 10
	var quoted []string
	for i, w := range words {
		if i == most {
			quoted = append(quoted, "…")
			break
		}
		quoted = append(quoted, fmt.Sprintf("%.200q", w))
	}
	return strings.Join(quoted, ", ")
}

// layoutSource is an image in a folder with an OCI layout.
type layoutSource struct{ path, ref string }

func (s *layoutSource) String() string {
	if s.ref == "" {
		return s.path
	}
	return s.path + ":" + s.ref
}

func (s *layoutSource) fill(ctx context.Context, t *target) error {
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return err
	}
	defer root.Close()
	l := layout{root}
	m, err := l.find(s.ref)
	if err != nil {
		return err
	}
	if t.env, err = l.configuration(m); err != nil {
		return err
	}
	for i := range m.Layers {
		if err := l.layer(ctx, t, &m.Layers[i]); err != nil {
			return fmt.Errorf("layer %d (%s): %w", i+1, m.Layers[i].Digest, err)
		}
	}
	return nil
}

// layout reads a folder, and nothing outside it.
type layout struct{ root *os.Root }

// open opens a regular file; nothing else, as that might never end, or begin.
func (l layout) open(name string) (*os.File, error) {
	f, err := l.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Errorf(fault.BadTicket, "not a complete layout: %w", err)
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fault.Errorf(fault.BadTicket, "%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func blob(digest string) string {
	return path.Join("blobs", "sha256", strings.TrimPrefix(digest, digestPrefix))
}

// document reads one of the small files.
func (l layout) document(d *descriptor) ([]byte, error) {
	f, err := l.open(blob(d.Digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if d.Size > maxDocument {
		return nil, fault.Errorf(fault.BadTicket, "%s: %d bytes; at most %d are allowed", d.Digest, d.Size, maxDocument)
	}
	v := newVerifier(f, d)
	b, err := io.ReadAll(v)
	if err != nil {
		return nil, err
	}
	return b, v.end()
}

// find goes from the layout's index to the manifest of the image.
func (l layout) find(ref string) (*manifestDocument, error) {
	f, err := l.open("index.json")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxDocument {
		return nil, fault.Errorf(fault.BadTicket, "index.json: more than %d bytes", maxDocument)
	}
	for range maxNesting {
		list, err := parseIndex(b)
		if err != nil {
			return nil, err
		}
		d, err := choose(list, ref, here())
		if err != nil {
			return nil, err
		}
		if b, err = l.document(&d); err != nil {
			return nil, err
		}
		if slices.Contains(manifestTypes, d.MediaType) {
			return parseManifest(b)
		}
		ref = "" // it has led to this index, whose images have no names of their own
	}
	return nil, fault.Errorf(fault.BadTicket, "more than %d indexes, one in the other", maxNesting)
}

// configuration checks that the image is for this machine, and returns its
// environment.
func (l layout) configuration(m *manifestDocument) ([]string, error) {
	b, err := l.document(&m.Config)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var c struct {
		platform
		Config struct {
			Env []string `json:"Env"`
		} `json:"config"`
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fault.Errorf(fault.BadTicket, "not a configuration: %w", err)
	}
	if !c.fits(here()) {
		return nil, fault.Errorf(fault.Unavailable, "the image is for %.100q; this machine is %s", c.platform, here())
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fault.Errorf(fault.BadTicket, "the configuration tells of %d layers, the manifest of %d", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for _, v := range c.Config.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || strings.ContainsRune(v, 0) {
			return nil, fault.Errorf(fault.BadTicket, "%.100q is no variable of an environment", v)
		}
	}
	return c.Config.Env, nil
}

// layer unpacks one layer, and checks its digest on the way: should it be
// wrong, the whole image is dropped.
func (l layout) layer(ctx context.Context, t *target, d *descriptor) error {
	f, err := l.open(blob(d.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	v := newVerifier(f, d)
	if err := t.apply(ctx, v, true); err != nil {
		if e := v.end(); e != nil { // more likely the cause
			return e
		}
		return err
	}
	return v.end()
}

// verifier reads what a descriptor describes, and no more.
type verifier struct {
	r    io.Reader
	d    *descriptor
	n    int64
	hash hash.Hash
}

func newVerifier(r io.Reader, d *descriptor) *verifier {
	return &verifier{r: io.LimitReader(r, d.Size+1), d: d, hash: sha256.New()}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	return n, err
}

// end reads the rest, and tells whether all was as described.
func (v *verifier) end() error {
	if _, err := io.Copy(io.Discard, v); err != nil {
		return err
	}
	if got := digestPrefix + hex.EncodeToString(v.hash.Sum(nil)); v.n != v.d.Size || got != v.d.Digest {
		return fault.Errorf(fault.BadTicket, "%w: expected %d bytes with the digest %s, found others", ErrDamaged, v.d.Size, v.d.Digest)
	}
	return nil
}
