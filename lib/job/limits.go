package job

import (
	"encoding/json"
	"strconv"

	"github.com/distci/distci/lib/ticket"
)

// limits are those of a task as they are written.
type limits struct {
	Memory size    `json:"memory"`
	CPUs   float64 `json:"cpus"`
	Pids   int     `json:"pids"`
	Disk   size    `json:"disk"`
}

func (l *limits) bytes() *ticket.Limits {
	if l == nil || *l == (limits{}) {
		return nil
	}
	return &ticket.Limits{Memory: int64(l.Memory), CPUs: l.CPUs, Processes: l.Pids, Disk: int64(l.Disk)}
}

// size is a number of bytes, or a string such as "512M" or "2G", powers of 1024.
type size int64

// UnmarshalJSON reads what the schema lets pass.
func (s *size) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		return json.Unmarshal(b, (*int64)(s))
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	unit := map[byte]int64{'M': 1 << 20, 'G': 1 << 30}[text[len(text)-1]]
	n, err := strconv.ParseInt(text[:len(text)-1], 10, 64)
	*s = size(n * unit)
	return err
}
