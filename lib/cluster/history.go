package cluster

import (
	"encoding/json"
	"log/slog"
	"os"
	"sync"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
)

// history is a file of queue.Events. Several processes may append to one file:
// each event is one write.
type history struct {
	file *os.File
	log  *slog.Logger
	once sync.Once
}

func openHistory(path string, log *slog.Logger) (*history, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "history: %w", err)
	}
	return &history{file: f, log: log}, nil
}

// add appends an event. That the file cannot be written is no reason not to
// work; it is told once.
func (h *history) add(e queue.Event) {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = h.file.Write(append(line, '\n'))
	}
	if err != nil {
		h.once.Do(func() { h.log.Error("history: " + err.Error()) })
	}
}
