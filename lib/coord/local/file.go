package local

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/distci/distci/lib/fault"
)

// The format of the file. A program refuses a newer one and leaves it alone.
const (
	applicationID = 0x44634349 // "DcCI"
	formatVersion = 1
)

// schema is the format. A node is found and its children are listed by one
// index, in the order of bytes. czxid, mzxid and pzxid are the numbers of the
// transactions that created it, last set it, and last changed its children;
// times are nanoseconds: modified of the Unix epoch, a deadline of the
// machine's monotonic clock since the boot that meta names.
const schema = `
pragma synchronous=full;
begin immediate;
create table node(
  parent   text not null,
  name     text not null,
  version  integer not null,
  czxid    integer not null,
  mzxid    integer not null,
  pzxid    integer not null,
  modified integer not null,
  owner    integer not null,
  children integer not null,
  data     blob);
create unique index node_name on node(parent, name);
create index node_owner on node(owner) where owner<>0;
create table session(id integer primary key, timeout integer not null, deadline integer not null);
create table meta(zxid integer not null, boot text not null);
insert into meta values(1, '');
insert into node values('', '/', 0, 1, 1, 1, 0, 0, 0, null);
pragma application_id=%d;
pragma user_version=%d;
commit;
pragma journal_mode=wal;`

// readers is how many goroutines may read at the same time.
const readers = 2

// file is the database with its connections.
type file struct {
	path  string
	db    *sql.DB
	write *link      // guarded by the gate
	eye   *link      // guarded by the watcher; sees what the others commit
	read  chan *link // taken and given back
	all   []*link
}

// dsn names the file to SQLite. It never creates one: that is create's work.
func dsn(path string) string {
	q := "mode=rw&_error_rc=1&_pragma=busy_timeout(3000)&_pragma=synchronous(full)&_pragma=cache_size(-1000)&_pragma=temp_store(memory)"
	u := url.URL{Scheme: "file", Path: path, RawQuery: q}
	return u.String()
}

// openFile opens an existing file after it has made sure that it is ours.
func openFile(ctx context.Context, path string) (_ *file, err error) {
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, explain(path, err)
	}
	f := &file{path: path, db: db, read: make(chan *link, readers)}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if f.write, err = f.link(ctx); err != nil {
		return nil, err
	}
	var app, version int64
	if _, err := f.write.row(`pragma application_id`, nil, &app); err != nil {
		return nil, explain(path, err)
	}
	if _, err := f.write.row(`pragma user_version`, nil, &version); err != nil {
		return nil, explain(path, err)
	}
	if app != applicationID {
		return nil, fault.Errorf(fault.Config, "coord: %s: not a coordination file", path)
	}
	if version > formatVersion {
		return nil, fault.Errorf(fault.Config, "coord: %s: its format %d is newer than this program, which knows %d; left untouched", path, version, formatVersion)
	}
	if f.eye, err = f.link(ctx); err != nil {
		return nil, err
	}
	for range readers {
		l, err := f.link(ctx)
		if err != nil {
			return nil, err
		}
		f.read <- l
	}
	return f, nil
}

// create makes the file if there is none, under the gate. It appears whole or
// not at all: another process never meets one without its tables.
func create(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := path + "-new"
	for _, ext := range []string{"-journal", "-wal", "-shm", ""} { // what a killed one left
		if err := os.Remove(tmp + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Made before SQLite opens it, for the mode, which -wal and -shm inherit.
	empty, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := empty.Close(); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn(tmp))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	_, err = db.Exec(fmt.Sprintf(schema, applicationID, formatVersion))
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// reader runs fn with a connection for reading.
func (f *file) reader(ctx context.Context, done <-chan struct{}, fn func(*link) error) error {
	select {
	case l := <-f.read:
		defer func() { f.read <- l }()
		return fn(l)
	case <-ctx.Done():
		return fmt.Errorf("coord: %w", ctx.Err())
	case <-done:
		return errClosed
	}
}

// close closes the connections; the last one of all processes empties the log.
func (f *file) close() error {
	var errs []error
	for _, l := range f.all {
		for _, s := range l.stmts { // the connection would live on with them
			errs = append(errs, s.Close())
		}
		errs = append(errs, l.conn.Close())
	}
	return explain(f.path, errors.Join(append(errs, f.db.Close())...))
}

// drain waits for those who read, and lets nobody else.
func (f *file) drain() {
	for range readers {
		<-f.read
	}
}

// link is one connection with its prepared statements, for one goroutine at a
// time. Statements run to their end: a canceled context never interrupts one.
type link struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

func (f *file) link(ctx context.Context) (*link, error) {
	c, err := f.db.Conn(ctx)
	if err != nil {
		return nil, explain(f.path, err)
	}
	l := &link{conn: c, stmts: map[string]*sql.Stmt{}}
	f.all = append(f.all, l)
	return l, nil
}

func (l *link) prepare(query string) (*sql.Stmt, error) {
	if s := l.stmts[query]; s != nil {
		return s, nil
	}
	s, err := l.conn.PrepareContext(context.Background(), query)
	if err == nil {
		l.stmts[query] = s
	}
	return s, err
}

// exec runs a statement and tells how many rows it changed.
func (l *link) exec(query string, args ...any) (int64, error) {
	s, err := l.prepare(query)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// pragma sets a pragma, which takes effect when it is prepared: so never one
// that is kept.
func (l *link) pragma(query string) error {
	_, err := l.conn.ExecContext(context.Background(), query)
	return err
}

// row reads the first row of an answer and tells whether there was one.
func (l *link) row(query string, args []any, dest ...any) (bool, error) {
	s, err := l.prepare(query)
	if err != nil {
		return false, err
	}
	err = s.QueryRowContext(context.Background(), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// names reads the rows of an answer that has one column.
func (l *link) names(query string, args ...any) ([]string, error) {
	s, err := l.prepare(query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(context.Background(), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

// code is SQLite's primary result code of err; 0 if it is none of SQLite's.
func code(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// explain gives an error of SQLite or of the system its kind and names the
// file. Nothing was changed where it is used.
func explain(path string, err error) error {
	if err == nil {
		return nil
	}
	say := func(k fault.Kind, what string) error {
		return fault.Errorf(k, "coord: %s: %s: %w", path, what, err)
	}
	switch code(err) {
	case sqlite3.SQLITE_FULL:
		return say(fault.Temporary, "no space left, nothing was changed")
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return say(fault.Temporary, "locked by another program")
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM:
		return say(fault.Temporary, "cannot be read or written")
	case sqlite3.SQLITE_CORRUPT:
		return say(fault.Config, "damaged")
	case sqlite3.SQLITE_NOTADB:
		return say(fault.Config, "not a coordination file")
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return say(fault.Config, "cannot be opened for writing")
	}
	var p *fs.PathError
	var l *os.LinkError
	if errors.As(err, &p) || errors.As(err, &l) { // names the path itself
		return fault.Errorf(fault.Config, "coord: %w", err)
	}
	if fault.Of(err) != fault.Internal {
		return err
	}
	return fault.Errorf(fault.Internal, "coord: %s: %w", path, err)
}
