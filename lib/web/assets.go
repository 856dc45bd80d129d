package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/distci/distci/lib/fault"
)

//go:embed assets
var assetFiles embed.FS

//go:embed templates
var templateFiles embed.FS

// assets are the files that pages refer to. The name of each has a piece of its
// digest in it, so that it may be kept for ever and is never out of date.
type assets struct {
	names  map[string]string // name in the source → name that is served
	served map[string]asset
}

type asset struct {
	typ         string
	plain, gzip []byte
}

func newAssets() *assets {
	a := &assets{names: map[string]string{}, served: map[string]asset{}}
	entries, err := fs.ReadDir(assetFiles, "assets")
	if err != nil {
		panic(err) // it is in the program
	}
	for _, e := range entries {
		b, err := assetFiles.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		ext := path.Ext(e.Name())
		sum := sha256.Sum256(b)
		name := strings.TrimSuffix(e.Name(), ext) + "." + hex.EncodeToString(sum[:6]) + ext
		a.names[e.Name()] = "/ui/assets/" + name
		a.served[name] = asset{mime.TypeByExtension(ext), b, compressed(b, gzip.BestCompression)}
	}
	return a
}

// url is where an asset is served. It is a mistake in a template to ask for one
// that is not there.
func (a *assets) url(name string) (string, error) {
	u, ok := a.names[name]
	if !ok {
		return "", fault.Errorf(fault.Internal, "web: there is no asset %q", name)
	}
	return u, nil
}

// Asset sends a style sheet, a script or a picture. An unknown one is an error
// of kind Unavailable.
func (p *Pages) Asset(w http.ResponseWriter, r *http.Request) error {
	q := named(r)
	a, ok := p.assets.served[q.Asset]
	if !ok {
		return fault.Errorf(fault.Unavailable, "no such asset")
	}
	h := w.Header()
	h.Set("Content-Type", a.typ)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	h.Set("Etag", `"`+q.Asset+`"`)
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if matches(r.Header.Get("If-None-Match"), `"`+q.Asset+`"`) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	body := a.plain
	if takesGzip(r) && len(a.gzip) < len(body) {
		body = a.gzip
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
	return nil
}
