package job

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep a configuration's values may lie within each other.
const maxDepth = 64

// node is a JSON value as it was read: what a map would lose, the order of an
// object's keys, makes the order of the messages.
type node struct {
	kind    string           // "object", "array", "string", "number", "boolean" or "null"
	value   any              // string, json.Number, bool; nil for the others
	keys    []string         // of an object, as they came
	members map[string]*node // of an object
	items   []*node          // of an array
}

// read reads a JSON text. It refuses a key that occurs twice: a reader can
// only guess which of the two was meant.
func read(b []byte) (*node, error) {
	if !utf8.Valid(b) {
		offset := 0
		for r, n := utf8.DecodeRune(b); r != utf8.RuneError || n != 1; r, n = utf8.DecodeRune(b[offset:]) {
			offset += n
		}
		line, column := position(b, offset)
		return nil, fmt.Errorf("not UTF-8: line %d, column %d", line, column)
	}
	var text json.RawMessage
	if err := json.Unmarshal(b, &text); err != nil {
		offset := len(b)
		if se, ok := err.(*json.SyntaxError); ok && !strings.HasPrefix(err.Error(), "unexpected end") {
			offset = int(se.Offset) - 1 // it counts the byte that it does not like
		}
		line, column := position(b, offset)
		return nil, fmt.Errorf("not JSON: line %d, column %d: %w", line, column, err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return readNode(dec, "$", 0)
}

// position tells where the byte at an offset is, both from 1.
func position(b []byte, offset int) (line, column int) {
	before := b[:max(0, min(offset, len(b)))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[start:])
}

func readNode(dec *json.Decoder, path string, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%s: expected at most %d levels, found more", path, maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		n := &node{kind: "object", members: map[string]*node{}}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			name := key.(string)
			at := path + member(name)
			if n.members[name] != nil {
				return nil, fmt.Errorf("%s: expected the key once, found it twice", at)
			}
			if n.members[name], err = readNode(dec, at, depth+1); err != nil {
				return nil, err
			}
			n.keys = append(n.keys, name)
		}
		_, err := dec.Token()
		return n, err
	case json.Delim('['):
		n := &node{kind: "array"}
		for dec.More() {
			item, err := readNode(dec, path+index(len(n.items)), depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		_, err := dec.Token()
		return n, err
	}
	n := &node{value: token}
	switch token.(type) {
	case nil:
		n.kind = "null"
	case bool:
		n.kind = "boolean"
	case string:
		n.kind = "string"
	case json.Number:
		n.kind = "number"
	}
	return n, nil
}

// String tells people what was found.
func (n *node) String() string {
	switch n.kind {
	case "object":
		return "an object"
	case "array":
		if len(n.items) == 0 {
			return "an empty list"
		}
		return "a list"
	}
	if s, ok := n.value.(string); ok {
		return strconv.Quote(clip(s))
	}
	if n.value == nil {
		return "null"
	}
	return clip(fmt.Sprint(n.value))
}

// clip keeps a message short, whatever was found.
func clip(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}

// member and index are the parts of a path such as $.tasks[2].params.
func member(key string) string {
	if plain(key) {
		return "." + key
	}
	return "[" + strconv.Quote(clip(key)) + "]"
}

// plain tells whether a key can stand behind a dot.
func plain(key string) bool {
	for i, c := range []byte(key) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '-')) {
			return false
		}
	}
	return key != "" && len(key) <= 64
}

func index(i int) string { return "[" + strconv.Itoa(i) + "]" }
