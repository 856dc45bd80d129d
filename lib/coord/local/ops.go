package local

import (
	"fmt"
	"time"

	"github.com/distci/distci/lib/coord"
)

// refusal is an answer of the service, as opposed to a failure of it.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

const (
	sqlAdopt  = `update node set pzxid=?, children=children+1 where parent=? and name=? and owner=0`
	sqlInsert = `insert into node(parent, name, version, czxid, mzxid, pzxid, modified, owner, children, data)
  values(?,?,0,?,?,?,?,?,0,?) on conflict do nothing`
	sqlSet = `update node set data=?, version=version+1, mzxid=?, modified=?
  where parent=? and name=? and (?=-1 or version=?) returning version, czxid, owner, children`
	sqlDelete = `delete from node where parent=? and name=? and (?=-1 or version=?) and children=0`
	sqlOrphan = `update node set pzxid=?, children=children-1 where parent=? and name=?`
	sqlFind   = `select version, owner, children from node where parent=? and name=?`
)

// do carries out one operation.
func (t *txn) do(op coord.Op) (coord.Stat, error) {
	switch op.Kind {
	case coord.OpCreate:
		return t.create(op)
	case coord.OpSet:
		return t.set(op)
	case coord.OpDelete:
		return t.delete(op)
	case coord.OpCheck:
		_, err := t.find(op.Path, op.Version)
		return coord.Stat{}, err
	}
	return coord.Stat{}, fmt.Errorf("operation of kind %d", op.Kind)
}

func (t *txn) create(op coord.Op) (coord.Stat, error) {
	if op.Path == "/" {
		return coord.Stat{}, refusal{coord.ErrNodeExists}
	}
	parent, name := split(op.Path)
	grand, self := split(parent)
	n, err := t.exec(sqlAdopt, t.zxid, grand, self)
	if err != nil {
		return coord.Stat{}, err
	}
	if n == 0 {
		if _, err := t.find(parent, coord.AnyVersion); err != nil {
			return coord.Stat{}, err
		}
		return coord.Stat{}, refusal{coord.ErrEphemeral}
	}
	s := coord.Stat{Czxid: t.zxid, Mzxid: t.zxid, Modified: time.Now().Round(0)}
	if op.Ephemeral {
		s.Owner = t.id
	}
	n, err = t.exec(sqlInsert, parent, name, t.zxid, t.zxid, t.zxid, s.Modified.UnixNano(), s.Owner, op.Data)
	if err != nil {
		return coord.Stat{}, err
	}
	if n == 0 {
		return coord.Stat{}, refusal{coord.ErrNodeExists}
	}
	t.changed = true
	return s, nil
}

func (t *txn) set(op coord.Op) (coord.Stat, error) {
	parent, name := split(op.Path)
	s := coord.Stat{Mzxid: t.zxid, Modified: time.Now().Round(0)}
	found, err := t.l.row(sqlSet,
		[]any{op.Data, t.zxid, s.Modified.UnixNano(), parent, name, op.Version, op.Version},
		&s.Version, &s.Czxid, &s.Owner, &s.NumChildren)
	if err != nil {
		return coord.Stat{}, err
	}
	if !found {
		if _, err := t.find(op.Path, op.Version); err != nil {
			return coord.Stat{}, err
		}
		return coord.Stat{}, fmt.Errorf("set %s: no row", op.Path)
	}
	t.changed = true
	return s, nil
}

func (t *txn) delete(op coord.Op) (coord.Stat, error) {
	if op.Path == "/" {
		return coord.Stat{}, refusal{coord.ErrBadPath}
	}
	parent, name := split(op.Path)
	n, err := t.exec(sqlDelete, parent, name, op.Version, op.Version)
	if err != nil {
		return coord.Stat{}, err
	}
	if n == 0 {
		if _, err := t.find(op.Path, op.Version); err != nil {
			return coord.Stat{}, err
		}
		return coord.Stat{}, refusal{coord.ErrNotEmpty}
	}
	t.changed = true
	grand, self := split(parent)
	_, err = t.exec(sqlOrphan, t.zxid, grand, self)
	return coord.Stat{}, err
}

// find refuses if there is no such node with such a version.
func (t *txn) find(path string, version int32) (coord.Stat, error) {
	parent, name := split(path)
	var s coord.Stat
	found, err := t.l.row(sqlFind, []any{parent, name}, &s.Version, &s.Owner, &s.NumChildren)
	switch {
	case err != nil:
		return s, err
	case !found:
		return s, refusal{coord.ErrNoNode}
	case version != coord.AnyVersion && version != s.Version:
		return s, refusal{coord.ErrBadVersion}
	}
	return s, nil
}
