package rados

import (
	"encoding/binary"
	"maps"
	"slices"
)

// expect encodes the argument of the method cmp_vals of Ceph's class cmpomap:
// each key of the omap must have the given value, and a key with the value ""
// must be absent or empty. The call ends the operation that it is a part of
// with ECANCELED if one is not so. See src/cls/cmpomap/ops.h in Ceph.
func expect(values map[string][]byte) []byte {
	const modeString, equal = 1, 1
	var b []byte
	number := func(n int) { b = binary.LittleEndian.AppendUint32(b, uint32(n)) }
	b = append(b, modeString, equal)
	number(len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		number(len(key))
		b = append(b, key...)
		number(len(values[key]))
		b = append(b, values[key]...)
	}
	b = append(b, 1) // there is a value for keys that are absent: the empty one
	number(0)

	head := []byte{1, 1} // version, and the oldest that can read it
	head = binary.LittleEndian.AppendUint32(head, uint32(len(b)))
	return append(head, b...)
}
