package sim

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/coord"
)

// tree is the service's data.
type tree struct {
	nodes map[string]*node
	zxid  int64
	// What the last transaction did, for the watches.
	touched []string // nodes created, set or deleted
	parents []string // nodes that got or lost a child
}

type node struct {
	data     []byte
	stat     coord.Stat // without NumChildren
	children map[string]struct{}
}

func newTree() *tree {
	return &tree{nodes: map[string]*node{"/": {}}}
}

// parent is the path of a node's parent, and the node's own name.
func parent(path string) (string, string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 1)], path[i+1:]
}

func (n *node) current() coord.Stat {
	s := n.stat
	s.NumChildren = len(n.children)
	return s
}

func (t *tree) get(path string) ([]byte, coord.Stat, error) {
	n := t.nodes[path]
	if n == nil {
		return nil, coord.Stat{}, coord.ErrNoNode
	}
	return bytes.Clone(n.data), n.current(), nil
}

func (t *tree) list(path string) ([]string, error) {
	n := t.nodes[path]
	if n == nil {
		return nil, coord.ErrNoNode
	}
	return slices.AppendSeq(make([]string, 0, len(n.children)), maps.Keys(n.children)), nil
}

// txn does all operations for a session or none.
func (t *tree) txn(owner int64, ops []coord.Op) ([]coord.Stat, error) {
	t.zxid++
	t.touched, t.parents = t.touched[:0], t.parents[:0]
	stats := make([]coord.Stat, len(ops))
	undo := make([]func(), 0, len(ops))
	for i, op := range ops {
		back, err := t.do(owner, op)
		if err != nil {
			for _, f := range slices.Backward(undo) {
				f()
			}
			t.touched, t.parents = t.touched[:0], t.parents[:0]
			return nil, &coord.TxnError{Index: i, Op: op, Err: err}
		}
		undo = append(undo, back)
		if n := t.nodes[op.Path]; n != nil {
			stats[i] = n.current()
		}
	}
	return stats, nil
}

// do carries out one operation and returns how to take it back.
func (t *tree) do(owner int64, op coord.Op) (undo func(), err error) {
	n := t.nodes[op.Path]
	if op.Kind == coord.OpCreate {
		return t.create(owner, op, n)
	}
	switch {
	case n == nil:
		return nil, coord.ErrNoNode
	case op.Version != coord.AnyVersion && op.Version != n.stat.Version:
		return nil, coord.ErrBadVersion
	}
	switch op.Kind {
	case coord.OpSet:
		data, stat := n.data, n.stat
		n.data = bytes.Clone(op.Data)
		n.stat.Version++
		n.stat.Mzxid, n.stat.Modified = t.zxid, time.Now()
		t.touched = append(t.touched, op.Path)
		return func() { n.data, n.stat = data, stat }, nil
	case coord.OpDelete:
		switch {
		case len(n.children) > 0:
			return nil, coord.ErrNotEmpty
		case op.Path == "/":
			return nil, coord.ErrBadPath
		}
		dir, name := parent(op.Path)
		p := t.nodes[dir]
		delete(t.nodes, op.Path)
		delete(p.children, name)
		t.touched, t.parents = append(t.touched, op.Path), append(t.parents, dir)
		return func() { t.nodes[op.Path] = n; p.children[name] = struct{}{} }, nil
	}
	return func() {}, nil
}

func (t *tree) create(owner int64, op coord.Op, n *node) (undo func(), err error) {
	if n != nil {
		return nil, coord.ErrNodeExists
	}
	dir, name := parent(op.Path)
	p := t.nodes[dir]
	switch {
	case p == nil:
		return nil, coord.ErrNoNode
	case p.stat.Owner != 0:
		return nil, coord.ErrEphemeral
	}
	n = &node{data: bytes.Clone(op.Data), stat: coord.Stat{Czxid: t.zxid, Mzxid: t.zxid, Modified: time.Now()}}
	if op.Ephemeral {
		n.stat.Owner = owner
	}
	t.nodes[op.Path] = n
	if p.children == nil {
		p.children = map[string]struct{}{}
	}
	p.children[name] = struct{}{}
	t.touched, t.parents = append(t.touched, op.Path), append(t.parents, dir)
	return func() { delete(t.nodes, op.Path); delete(p.children, name) }, nil
}

// expire removes the ephemeral nodes of a session.
func (t *tree) expire(owner int64) {
	var ops []coord.Op
	for path, n := range t.nodes {
		if n.stat.Owner == owner {
			ops = append(ops, coord.Delete(path, coord.AnyVersion))
		}
	}
	slices.SortFunc(ops, func(a, b coord.Op) int { return strings.Compare(a.Path, b.Path) })
	_, _ = t.txn(0, ops) // they exist and have no children
}
