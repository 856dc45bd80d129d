package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/distci/distci/lib/fault"
)

// WriteTextfile writes the metrics to a file for the textfile collector of
// node_exporter, which takes names that end in ".prom". The file appears whole.
// Counters and histograms are added to what the file holds: programs that live
// for one ticket each, one after the other or at the same time, count on where
// the one before has ended. Gauges are those of the last one.
func (m *Metrics) WriteTextfile(file string) error {
	lock, err := os.OpenFile(file+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fault.Errorf(fault.Config, "metrics: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fault.Errorf(fault.Config, "metrics: %s: %w", file, err)
	}
	families, err := m.Registry.Gather()
	if err != nil {
		return fault.Errorf(fault.Internal, "metrics: %w", err)
	}
	before, err := readTextfile(file)
	if err != nil {
		return err
	}
	var kept []*dto.MetricFamily
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "distci_") {
			continue // a process that has ended is nobody's concern
		}
		add(f, before[f.GetName()])
		kept = append(kept, f)
	}
	return writeWhole(file, kept)
}

// readTextfile reads the file; one that is not there is empty.
func readTextfile(file string) (map[string]*dto.MetricFamily, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Errorf(fault.Config, "metrics: %w", err)
	}
	defer f.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(f)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "metrics: %s: %w", file, err)
	}
	return families, nil
}

func writeWhole(file string, families []*dto.MetricFamily) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".")
	if err != nil {
		return fault.Errorf(fault.Config, "metrics: %w", err)
	}
	defer os.Remove(tmp.Name())
	for _, f := range families {
		if _, e := expfmt.MetricFamilyToText(tmp, f); e != nil && err == nil {
			err = e
		}
	}
	if e := tmp.Chmod(0o644); err == nil { // node_exporter is another user
		err = e
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fault.Errorf(fault.Config, "metrics: %s: %w", file, err)
	}
	return nil
}

// add adds what was counted before. Series that are only there are kept.
func add(now, before *dto.MetricFamily) {
	if before == nil || now.GetType() != before.GetType() || now.GetType() == dto.MetricType_GAUGE {
		return
	}
	index := map[string]*dto.Metric{}
	for _, m := range now.Metric {
		index[labels(m)] = m
	}
	for _, b := range before.Metric {
		m, ok := index[labels(b)]
		switch {
		case !ok:
			now.Metric = append(now.Metric, b)
		case m.Counter != nil:
			m.Counter.Value = sum(m.Counter.Value, b.Counter.Value)
		case m.Histogram != nil:
			addHistogram(m.Histogram, b.Histogram)
		}
	}
}

func addHistogram(h, before *dto.Histogram) {
	h.SampleSum = sum(h.SampleSum, before.SampleSum)
	count := h.GetSampleCount() + before.GetSampleCount()
	h.SampleCount = &count
	was := map[float64]uint64{}
	for _, b := range before.Bucket {
		was[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	for _, b := range h.Bucket {
		n := b.GetCumulativeCount() + was[b.GetUpperBound()]
		b.CumulativeCount = &n
	}
}

func sum(a, b *float64) *float64 {
	s := 0.0
	for _, v := range []*float64{a, b} {
		if v != nil {
			s += *v
		}
	}
	return &s
}

// labels is the labels of a metric as a text; they are in order.
func labels(m *dto.Metric) string {
	var s strings.Builder
	for _, l := range m.Label {
		fmt.Fprintf(&s, "%s=%q,", l.GetName(), l.GetValue())
	}
	return s.String()
}
