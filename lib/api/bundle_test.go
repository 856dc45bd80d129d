package api_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// publish publishes files by name as the next step of the build j #1 does, and
// returns their ids.
func (l *lab) publish(files map[string]string) map[string]string {
	l.Helper()
	l.control()
	held := l.claim(l.pending(), "w")
	held.Artifacts = map[string][]string{}
	ids := map[string]string{}
	for name, text := range files {
		var a struct {
			ID string `json:"artifact_id"`
		}
		if err := json.Unmarshal([]byte(l.want(201, "POST", "/jobs/j/builds/1/artifacts", text).body), &a); err != nil {
			l.Fatal(err)
		}
		ids[name], held.Artifacts[a.ID] = a.ID, strings.Split(name, "/")
	}
	l.complete(200, held, ticket.Success)
	return ids
}

func unzip(t testing.TB, s string) map[string]string {
	t.Helper()
	r, err := zip.NewReader(strings.NewReader(s), int64(len(s)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range r.File {
		rd, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rd)
		if err != nil { // the CRC, too
			t.Fatal(err)
		}
		files[f.Name+" "+f.Mode().String()] = string(b)
	}
	return files
}

func untarZstd(t testing.TB, s string) map[string]string {
	t.Helper()
	z, err := zstd.NewReader(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name+" "+h.FileInfo().Mode().String()] = string(b)
	}
}

// TestBundle: all of a build's artefacts as one archive, of what several steps
// have published.
func TestBundle(t *testing.T) {
	l := newLab(t)
	l.job("j", 2)
	l.publish(map[string]string{"bin/tool": "#!/bin/sh\n", "same": "equal", "other": "one", "é ü\n.txt": "text", "empty": "", `win\dows`: "backslash"})
	l.publish(map[string]string{"same": "equal", "other": "two", "other/below": "three"})
	const path = "/jobs/j/builds/1/artifacts"
	want := map[string]string{"bin/tool -rwxr-xr-x": "#!/bin/sh\n", "same -rw-r--r--": "equal", "step-0/other -rw-r--r--": "one", "step-1/other -rw-r--r--": "two",
		"other/below -rw-r--r--": "three", "é ü\n.txt -rw-r--r--": "text", "empty -rw-r--r--": ""}
	for format, read := range map[string]func(testing.TB, string) map[string]string{"zip": unzip, "tar.zst": untarZstd} {
		r := l.want(200, "GET", path+"?format="+format, "")
		got := read(t, r.body)
		if len(got) != len(want)+1 { // and the one with a name that Windows would take apart
			t.Errorf("%s: %d files: %q", format, len(got), got)
		}
		for name, text := range want {
			if got[name] != text {
				t.Errorf("%s: %q is %q, want %q", format, name, got[name], text)
			}
		}
		if r.Header.Get("Content-Disposition") != "attachment; filename=j-1."+format || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/z") {
			t.Errorf("%s: %v", format, r.Header)
		}
		if r := l.want(200, "HEAD", path+"?format="+format, ""); r.body != "" {
			t.Errorf("%q", r.body)
		}
	}
	if r := l.want(400, "GET", path+"?format=rar", ""); r.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(r.body, "zip or tar.zst") {
		t.Errorf("%s, %v", r.body, r.Header)
	}
	l.want(404, "GET", "/jobs/j/builds/2/artifacts?format=zip", "")
}

// TestEmptyBundle: of nothing there is an archive, too.
func TestEmptyBundle(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	if got := unzip(t, l.want(200, "GET", "/jobs/j/builds/1/artifacts?format=zip", "").body); len(got) != 0 {
		t.Error(got)
	}
	if got := untarZstd(t, l.want(200, "GET", "/jobs/j/builds/1/artifacts?format=tar.zst", "").body); len(got) != 0 {
		t.Error(got)
	}
}

// TestPages: the pages of the list have all of it, once.
func TestPages(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	files := map[string]string{}
	for i := range 7 {
		files[fmt.Sprint("f", i)] = strings.Repeat("x", i)
	}
	ids := l.publish(files)
	const path = "/jobs/j/builds/1/artifacts"
	type entry struct {
		Path               []string
		Size               int
		SHA256, Time, Step string
	}
	got, pages := map[string]entry{}, 0
	for after := ""; ; {
		var page struct {
			Artifacts map[string]entry
			Next      string
		}
		if err := json.Unmarshal([]byte(l.want(200, "GET", path+"?limit=3&after="+after, "").body), &page); err != nil {
			t.Fatal(err)
		}
		pages++
		for id, a := range page.Artifacts {
			got[id] = a
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if pages != 3 || len(got) != 7 {
		t.Errorf("%d pages with %d artefacts", pages, len(got))
	}
	for name, id := range ids {
		if a := got[id]; len(a.Path) != 1 || a.Path[0] != name || a.Size != len(files[name]) || len(a.SHA256) != 64 || a.Time == "" || a.Step != "0" {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if r := l.want(200, "GET", path, ""); strings.Contains(r.body, `"next"`) || strings.Count(r.body, `"sha256"`) != 7 {
		t.Error(r.body)
	}
	l.want(400, "GET", path+"?limit=0", "")
}

// damage changes one byte of the n-th artefact in the store, as a bad disk
// does.
func (l *lab) damage(id string, at int64) {
	l.Helper()
	ctx, st := l.Context(), l.repo.Store()
	infos, err := st.List(ctx, "builds/", "", 0)
	if err != nil {
		l.Fatal(err)
	}
	for _, i := range infos {
		if !strings.HasSuffix(i.Key, "/artifacts/"+id) {
			continue
		}
		b, _, err := store.ReadAll(ctx, st, i.Key)
		if err == nil {
			b[at] ^= 1
			_, err = st.Put(ctx, i.Key, bytes.NewReader(b))
		}
		if err != nil {
			l.Fatal(err)
		}
		return
	}
	l.Fatalf("the store has no %s", id)
}

// TestDamaged: what is not what was published is not sent as if it were. A
// small one is refused; of a large one, whose reply has begun, the connection
// is broken off before its end, and so is an archive.
func TestDamaged(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	large := strings.Repeat("0123456789", 50_000)
	ids := l.publish(map[string]string{"large": large, "small": "small", "well": "well"})
	const path = "/jobs/j/builds/1/artifacts"
	l.want(200, "GET", path+"/"+ids["large"], "")
	for _, format := range []string{"zip", "tar.zst"} {
		l.want(200, "GET", path+"?format="+format, "")
	}
	l.damage(ids["small"], 0)
	if r := l.want(500, "GET", path+"/"+ids["small"], ""); !strings.Contains(r.body, "damaged") || !strings.Contains(r.body, ids["small"]) || r.Header.Get("Etag") != "" {
		t.Errorf("%s, %v", r.body, r.Header)
	}
	// broken asserts that a reply begins well and does not end.
	broken := func(path string, header ...string) string {
		t.Helper()
		r, err := l.try("GET", path, "", header...)
		if !errors.Is(err, io.ErrUnexpectedEOF) || r == nil || r.StatusCode/100 != 2 {
			t.Errorf("%s: %v, %v", path, r, err)
			return ""
		}
		return r.body
	}
	for _, at := range []int64{0, 499_999} {
		l.damage(ids["large"], at)
		for _, header := range [][]string{nil, {"Range", "bytes=0-"}} {
			if got := broken(path+"/"+ids["large"], header...); len(got) >= len(large) {
				t.Errorf("all of its %d bytes came", len(got))
			}
		}
		l.damage(ids["large"], at) // and back again
	}
	if r := l.want(200, "GET", path+"/"+ids["large"], ""); r.body != large {
		t.Error("not the bytes")
	}
	// Nothing was sent of the archive yet, or the connection is broken off.
	refused := func(format string) {
		t.Helper()
		if r, err := l.try("GET", path+"?format="+format, ""); err == nil && r.StatusCode < 400 {
			t.Errorf("%s: %d, %v", format, r.StatusCode, err)
		}
	}
	refused("zip")
	refused("tar.zst")
	l.damage(ids["small"], 0) // well again
	l.damage(ids["large"], 499_999)
	for _, format := range []string{"zip", "tar.zst"} {
		refused(format)
	}
	l.damage(ids["large"], 499_999)
	l.want(200, "GET", path+"?format=zip", "")
	if !strings.Contains(l.log.String(), "damaged") {
		t.Error("the log does not tell of it")
	}
	l.want(204, "DELETE", path+"/"+ids["well"], "")
	refused("zip")
}

// TestBrokenBundle: an archive whose bytes are on their way already when one of
// its files turns out to be damaged has no end.
func TestBrokenBundle(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	noise := make([]byte, 700_000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	ids := l.publish(map[string]string{"a": string(noise), "b": "b"})
	l.damage(ids["b"], 0)
	for _, format := range []string{"zip", "tar.zst"} {
		r, err := l.try("GET", "/jobs/j/builds/1/artifacts?format="+format, "")
		if !errors.Is(err, io.ErrUnexpectedEOF) || r.StatusCode != 200 || len(r.body) < len(noise)/2 || strings.Contains(r.body, "PK\x05\x06") {
			t.Errorf("%s: %d bytes, %v", format, len(r.body), err)
		}
	}
}

// TestTruncated: an object of another size is refused before a byte is sent.
func TestTruncated(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	large := strings.Repeat("x", 100_000)
	id := l.publish(map[string]string{"large": large})["large"]
	infos, err := l.repo.Store().List(t.Context(), "builds/", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if strings.HasSuffix(i.Key, "/artifacts/"+id) {
			if _, err := l.repo.Store().Put(t.Context(), i.Key, strings.NewReader(large[1:])); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, header := range [][]string{nil, {"Range", "bytes=5-"}} {
		if r := l.want(500, "GET", "/jobs/j/builds/1/artifacts/"+id, "", header...); !strings.Contains(r.body, "damaged") {
			t.Error(r.body)
		}
	}
}

// TestConditions: a download is resumed only if it is of the same bytes.
func TestConditions(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	for _, text := range []string{"0123456789", strings.Repeat("0123456789", 20_000)} {
		id := ""
		for _, i := range l.publishAgain(text) {
			id = i
		}
		path := "/jobs/j/builds/1/artifacts/" + id
		r := l.want(200, "GET", path, "")
		tag, end := r.Header.Get("Etag"), len(text)
		if len(tag) != 66 || !strings.HasPrefix(r.Header.Get("Repr-Digest"), "sha-256=:") || r.Header.Get("Accept-Ranges") != "bytes" {
			t.Errorf("%v", r.Header)
		}
		for _, c := range []struct {
			code   int
			body   string
			header []string
		}{
			{206, text[4:], []string{"Range", "bytes=4-", "If-Range", tag}},
			{206, text[end-1:], []string{"Range", fmt.Sprintf("bytes=%d-%d", end-1, end+1000)}},
			{200, text, []string{"Range", "bytes=4-", "If-Range", `"other"`}},
			{200, text, []string{"Range", "bytes=0-1,3-4"}},
			{200, text, []string{"Range", "lines=1-2"}},
			{200, text, []string{"If-None-Match", `"other"`}},
			{304, "", []string{"If-None-Match", `"other", ` + tag}},
			{412, "", []string{"If-Match", `"other"`}},
		} {
			if r := l.want(c.code, "GET", path, "", c.header...); c.code < 300 && r.body != c.body {
				t.Errorf("%v: %d bytes, want %d", c.header, len(r.body), len(c.body))
			}
		}
		r = l.want(416, "GET", path, "", "Range", fmt.Sprintf("bytes=%d-", end))
		if r.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", end) {
			t.Error(r.Header)
		}
		if r := l.want(200, "HEAD", path, ""); r.ContentLength != int64(end) || r.Header.Get("Etag") != tag {
			t.Error(r.ContentLength, r.Header)
		}
	}
}

// publishAgain stores bytes that no step names.
func (l *lab) publishAgain(text string) []string {
	l.Helper()
	var a struct {
		ID string `json:"artifact_id"`
	}
	if err := json.Unmarshal([]byte(l.want(201, "POST", "/jobs/j/builds/1/artifacts", text).body), &a); err != nil {
		l.Fatal(err)
	}
	return []string{a.ID}
}

// TestNothingIsExecuted: whatever an artefact holds and is called, a browser
// saves it.
func TestNothingIsExecuted(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	path := "/jobs/j/builds/1/artifacts/" + l.publishAgain("<script>alert(1)</script>")[0]
	for name, want := range map[string]string{
		"":                              "attachment",
		"/page.html":                    "attachment; filename=page.html",
		"/a%20b%22c.svg":                `attachment; filename="a b\"c.svg"`,
		"/..%2f..%2fautoexec.bat":       "attachment; filename=autoexec.bat",
		"/..%5cautoexec.bat":            "attachment; filename=autoexec.bat",
		"/%2e%2e%2f..":                  "attachment",
		"/x%0d%0aSet-Cookie:%20a":       `attachment; filename="xSet-Cookie: a"`,
		"/%e2%80%aegpj.exe":             "attachment; filename=gpj.exe",
		"/gr%c3%bc%c3%9fe.txt":          "attachment; filename*=utf-8''gr%C3%BC%C3%9Fe.txt",
		"/%ff%fe.bin":                   "attachment; filename=.bin",
		"/" + strings.Repeat("n", 2000): "attachment; filename=" + strings.Repeat("n", 2000),
	} {
		r := l.want(200, "GET", path+name, "")
		h := r.Header
		if h.Get("Content-Disposition") != want || h.Get("Content-Type") != "application/octet-stream" || h.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.Contains(h.Get("Content-Security-Policy"), "sandbox") || h.Get("Set-Cookie") != "" {
			t.Errorf("%s: %.200v", name, h)
		}
	}
}

// TestProgramsRead: the archives are those that everybody's programs read.
func TestProgramsRead(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	files := map[string]string{"a b/ü": "text", "large": strings.Repeat("0123456789", 100_000)}
	l.publish(files)
	for format, list := range map[string]string{"zip": `python3 -c 'import sys,zipfile,io; z=zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read())); assert z.testzip() is None; print("\n".join(z.namelist()))'`, "tar.zst": "zstd -dc | tar -t --quoting-style=literal"} {
		program, _, _ := strings.Cut(list, " ")
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("there is no %s here", program)
			continue
		}
		cmd := exec.Command("sh", "-c", list)
		cmd.Env = append(cmd.Environ(), "PYTHONIOENCODING=utf-8", "LC_ALL=C.UTF-8")
		cmd.Stdin = strings.NewReader(l.want(200, "GET", "/jobs/j/builds/1/artifacts?format="+format, "").body)
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "a b/ü\nlarge\n" {
			t.Errorf("%s: %q, %v", format, out, err)
		}
	}
}

// TestTraffic: bytes are counted by what they are.
func TestTraffic(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	path := "/jobs/j/builds/1/artifacts/" + l.publishAgain("0123456789")[0]
	counts := func() (n struct {
		Traffic map[string]struct{ In, Out int64 }
	}) {
		if err := json.Unmarshal([]byte(l.want(200, "GET", "/healthz?verbose", "").body), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := counts().Traffic
	if before["artifact"].In != 10 || before["log"].In != 0 || before["workspace"].Out != 0 || before["other"].In == 0 {
		t.Errorf("%+v", before)
	}
	l.want(206, "GET", path, "", "Range", "bytes=1-3")
	l.want(204, "POST", "/jobs/j/builds/1/console", "line\n")
	l.want(200, "GET", "/jobs/j/builds/1/console", "")
	l.want(204, "PUT", "/jobs/j/builds/1/workspace", tarball(t, map[string]string{"f": "text"}))
	after := counts().Traffic
	if after["artifact"].Out-before["artifact"].Out != 3 || after["artifact"].In != 10 || after["log"] != (struct{ In, Out int64 }{5, 5}) || after["workspace"].In == 0 {
		t.Errorf("%+v", after)
	}
	if r := l.want(http.StatusOK, "GET", "/healthz", ""); r.body != `{"status":"ok"}` {
		t.Error(r.body)
	}
}
