package api

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
)

// pageLimit is how much a page of a list has at most.
const pageLimit = 10_000

// listArtifacts lists what the build has published, or sends all of it as one
// archive. A page has the artefacts whose ids come next.
func (c *call) listArtifacts() error {
	q := c.r.URL.Query()
	if q.Has("format") {
		return c.sendBundle(q.Get("format"))
	}
	limit, after := 0, q.Get("after")
	if q.Has("limit") {
		var err error
		if limit, err = strconv.Atoi(q.Get("limit")); err != nil || limit < 1 {
			return status(http.StatusBadRequest, "limit: expected a number from 1 on")
		}
		limit = min(limit, pageLimit)
	}
	all, err := c.repo.Artifacts(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	next := ""
	if limit > 0 || after != "" {
		ids := slices.Sorted(maps.Keys(all))
		from, found := slices.BinarySearch(ids, after)
		if found {
			from++
		}
		ids = ids[from:]
		if limit > 0 && limit < len(ids) {
			ids = ids[:limit]
			next = ids[limit-1]
		}
		page := make(map[string]repo.Artifact, len(ids))
		for _, id := range ids {
			page[id] = all[id]
		}
		all = page
	}
	return c.json(http.StatusOK, struct {
		ID        string                   `json:"job_id"`
		Number    int64                    `json:"build_number"`
		Artifacts map[string]repo.Artifact `json:"artifacts"`
		Next      string                   `json:"next,omitempty"`
	}{c.job, int64(c.build), all, next})
}

func (c *call) postArtifact() error { return c.storeArtifact(http.StatusCreated) }
func (c *call) putArtifact() error  { return c.storeArtifact(http.StatusOK) }

// storeArtifact takes the body as an artefact; c.artifact is "" for a new one.
func (c *call) storeArtifact(code int) error {
	body, err := c.upload()
	if err != nil {
		return err
	}
	id, a, err := c.repo.PutArtifact(c.r.Context(), c.job, c.build, c.artifact, body)
	if body.err != nil {
		return bodyError(body.err)
	}
	if err != nil {
		return err
	}
	return c.json(code, struct {
		ID       string `json:"job_id"`
		Number   int64  `json:"build_number"`
		Artifact string `json:"artifact_id"`
		Size     int64  `json:"size"`
		SHA256   string `json:"sha256"`
	}{c.job, int64(c.build), id, a.Size, a.SHA256})
}

// upload is the body, where it may be large. One that says that it is too large
// is refused before it comes, if the client waits for that.
func (c *call) upload() (*upload, error) {
	if c.r.ContentLength > c.MaxUpload {
		return nil, bodyError(&http.MaxBytesError{Limit: c.MaxUpload})
	}
	return &upload{r: c.body(c.MaxUpload)}, nil
}

// upload remembers that it was the client that failed.
type upload struct {
	r   io.Reader
	err error
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && err != io.EOF {
		u.err = err
	}
	return n, err
}

// small is the size up to which an artefact is in memory, and known to be well,
// before the reply begins.
const small = 64 << 10

// getArtifact sends an artefact, or a range of it. What is sent whole is
// compared with its digest: should that be another one, the connection is
// broken off before the last bytes, so that nobody takes it for whole. A range
// cannot be compared; who puts ranges together has the digest in the header.
func (c *call) getArtifact() error {
	a, err := c.repo.StatArtifact(c.r.Context(), c.job, c.build, c.artifact)
	if err != nil {
		return err
	}
	content, info, err := c.content(a)
	if err != nil {
		return err
	}
	if f, ok := content.(*object); ok {
		defer f.Close()
	}
	c.attach(c.name)
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Etag", `"`+a.SHA256+`"`)
	if sum, err := hex.DecodeString(a.SHA256); err == nil {
		h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum)+":") // RFC 9530
	}
	// Several ranges at once are worth nothing to anybody, and other units are
	// to be ignored.
	if v := c.r.Header.Get("Range"); strings.Contains(v, ",") || !strings.HasPrefix(v, "bytes=") {
		c.r.Header.Del("Range")
	}
	http.ServeContent(c.w, c.r, "", info.Modified, content)
	if f, ok := content.(*object); ok {
		return f.err
	}
	return nil
}

// content is an artefact as [http.ServeContent] wants it, and what the store
// says of it.
func (c *call) content(a repo.Artifact) (io.ReadSeeker, store.Info, error) {
	ctx := c.r.Context()
	if a.Size <= small {
		rd, info, err := c.repo.OpenArtifact(ctx, c.job, c.build, c.artifact, a)
		if err != nil {
			return nil, info, err
		}
		defer rd.Close()
		b, err := io.ReadAll(rd)
		return bytes.NewReader(b), info, err
	}
	rd, first, err := c.repo.GetArtifact(ctx, c.job, c.build, c.artifact, 0, 0)
	if err != nil {
		return nil, first, err
	}
	rd.Close()
	if first.Size != a.Size {
		return nil, first, fmt.Errorf("%w: artifact %s has %d bytes instead of %d", repo.ErrDamaged, c.artifact, first.Size, a.Size)
	}
	return &object{size: a.Size, open: func(offset int64) (rd io.ReadCloser, err error) {
		var now store.Info
		if offset == 0 {
			rd, now, err = c.repo.OpenArtifact(ctx, c.job, c.build, c.artifact, a)
		} else {
			rd, now, err = c.repo.GetArtifact(ctx, c.job, c.build, c.artifact, offset, -1)
		}
		if err == nil && now.Version != first.Version {
			rd.Close()
			return nil, fault.Errorf(fault.Temporary, "the artifact was replaced while it was read")
		}
		return rd, err
	}}, first, nil
}

// attach makes a browser save what is sent, instead of showing it, under the
// last part of a name.
func (c *call) attach(name string) {
	h := c.w.Header()
	h.Set("Content-Disposition", "attachment")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // line ends, and what would turn the ending round
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, ""))
	if d := mime.FormatMediaType("attachment", map[string]string{"filename": name}); d != "" && strings.Trim(name, ". ") != "" {
		h.Set("Content-Disposition", d)
	}
}

// object is an object of the store as [http.ServeContent] wants it. It is
// opened where it is first read.
type object struct {
	size   int64
	offset int64 // of the next Read
	open   func(offset int64) (io.ReadCloser, error)
	rd     io.ReadCloser
	at     int64 // of rd
	err    error // of the store
}

func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.size
	}
	if offset < 0 {
		return 0, errors.New("a seek to before the beginning")
	}
	o.offset = offset
	return offset, nil
}

func (o *object) Read(p []byte) (n int, err error) {
	if o.rd == nil || o.at != o.offset {
		o.Close()
		if o.rd, err = o.open(o.offset); err != nil {
			o.err = err
			return 0, err
		}
	}
	n, err = o.rd.Read(p)
	o.offset += int64(n)
	o.at = o.offset
	if err == io.EOF && o.offset < o.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		o.err = err
	}
	return n, err
}

func (o *object) Close() {
	if o.rd != nil {
		o.rd.Close()
		o.rd = nil
	}
}

func (c *call) deleteArtifact() error {
	if err := c.repo.DeleteArtifact(c.r.Context(), c.job, c.build, c.artifact); err != nil {
		return err
	}
	return c.none()
}
