package workspace

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rootTar writes headers, with "x" as the contents of each regular file.
func rootTar(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.ModTime, h.Format = time.Unix(1, 0), tar.FormatPAX
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, "x")
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// TestApplyRoot: what a workspace refuses is left out and told, owners and the
// bits that come with them stay, links lead where they led.
func TestApplyRoot(t *testing.T) {
	owners := os.Geteuid() == 0
	dir := t.TempDir()
	for path, typ := range map[string]string{"below": "f", "gone/x": "f"} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(typ), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	var notes []string
	got, err := ApplyRoot(t.Context(), dir, rootTar(t,
		tar.Header{Name: "/etc/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 1, Gid: 65535},
		tar.Header{Name: "/etc/shadow", Mode: 0, Gid: 42},
		tar.Header{Name: "bin", Typeflag: tar.TypeSymlink, Linkname: "/usr/bin", Uid: 7},
		tar.Header{Name: "usr/bin/su", Mode: 0o4755, Uid: 3, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y", "SCHILY.xattr.security.capability": "\x01"}},
		tar.Header{Name: "usr/bin/sudo", Typeflag: tar.TypeLink, Linkname: "/usr/bin/su", Uid: 1 << 20},
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Uid: 1 << 20},
		tar.Header{Name: "dev/zero", Typeflag: tar.TypeLink, Linkname: "dev/null"},
		tar.Header{Name: "below", Typeflag: tar.TypeFifo},
		tar.Header{Name: ".wh.gone", Uid: 1 << 20},
	), Limits{}, Root{Owners: owners, Layer: true, Note: func(path, what string) { notes = append(notes, path+": "+what) }})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"dev/null: a device", `dev/zero: a hard link to "dev/null", which was left out`, "below: a named pipe"}; !slices.Equal(notes, want) {
		t.Errorf("notes %q", notes)
	}
	if got.Files != 9+2 || got.Bytes != 3 { // usr and usr/bin were needed; a whiteout here has a byte
		t.Errorf("counted %+v", got)
	}
	for path, want := range map[string]string{
		"etc": "42750 1:65535 1", "etc/shadow": "100000 0:42 1", "bin": "120777 7:0 1", "usr/bin/su": "104755 3:0 2", "usr/bin/sudo": "104755 3:0 2",
		"below": "absent", "dev": "absent", "gone": "absent",
	} {
		var st unix.Stat_t
		now := "absent"
		if err := unix.Lstat(filepath.Join(dir, path), &st); err == nil {
			links := st.Nlink
			if isDir(st.Mode) {
				links = 1
			}
			now = fmt.Sprintf("%o %d:%d %d", st.Mode, st.Uid, st.Gid, links)
		}
		if !owners { // as for any user
			mode, _, _ := strings.Cut(strings.Replace(want, "100000", "100400", 1), " ")
			want, _, _ = strings.Cut(mode, " ")
			now, _, _ = strings.Cut(now, " ")
		}
		if now != want {
			t.Errorf("%s: %s, want %s", path, now, want)
		}
	}
	if n, err := unix.Llistxattr(filepath.Join(dir, "usr/bin/su"), make([]byte, 999)); err == nil && n > 0 {
		t.Errorf("attributes of %d bytes", n)
	}
	if to, _ := os.Readlink(filepath.Join(dir, "bin")); to != "/usr/bin" {
		t.Errorf("bin leads to %s", to)
	}
}

func TestApplyRootRefuses(t *testing.T) {
	deep := strings.Repeat("d/", 100)
	for name, c := range map[string]struct {
		entry tar.Header
		lim   Limits
		want  error
		text  string
	}{
		"upwards":       {tar.Header{Name: "/../x"}, Limits{}, ErrArchive, `"../x"`},
		"through link":  {tar.Header{Name: "l/x"}, Limits{}, ErrArchive, `"l/x"`},
		"hard link out": {tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "l/passwd"}, Limits{}, ErrArchive, `"x"`},
		"owner":         {tar.Header{Name: "x", Uid: 65536}, Limits{}, ErrArchive, `"x": the owner 65536:0`},
		"group":         {tar.Header{Name: "x", Gid: -1}, Limits{}, ErrArchive, `"x": the owner 0:-1`},
		"whiteout":      {tar.Header{Name: ".wh.x"}, Limits{}, ErrArchive, `".wh.x"`},
		"folders":       {tar.Header{Name: deep + "x"}, Limits{Files: 50}, ErrLimit, "more than 50 entries"},
		"names":         {tar.Header{Name: deep + "x"}, Limits{Names: 200}, ErrLimit, "more than 200 bytes"},
		"root":          {tar.Header{Name: "//.", Typeflag: tar.TypeChar}, Limits{}, ErrArchive, "root itself"},
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 && strings.Contains(c.text, "owner") {
				t.Skip("owners are for root")
			}
			in := rootTar(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, c.entry)
			_, err := ApplyRoot(t.Context(), t.TempDir(), in, c.lim, Root{Owners: os.Geteuid() == 0})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Error(err)
			}
		})
	}
}
