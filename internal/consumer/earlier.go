package consumer

import (
	"context"

	"mbus/internal/shared/follow"
	"mbus/internal/shared/logline"
)

// earlier returns the messages after position in the log, as far as saved has which of them are
// delivered. It reads them to make sure that they are the messages that saved counts. If not,
// because the log is another one from there on, or because of other topics, it reports that, and
// returns none, so that they are delivered again. The error is that of a position that is lost, or
// of a log that can't be read, or is the cause of ctx's end.
func (c *Consumer) earlier(
	ctx context.Context, position follow.Position, saved note,
) (messages []*started, err error) {
	if len(saved.done) == 0 {
		return nil, nil
	}
	log := follow.New(c.config.Log, func(string) {}) // what it reports, the next reader reports
	defer log.Close()
	log.DisableSync()
	end, err := endOf(log)
	if err != nil {
		return nil, err
	}
	log.Seek(position)
	parser := logline.Parser{Topics: c.config.Topics, Sums: true}
	for line, err := range lines(ctx, log, end) {
		if err != nil {
			return nil, c.hint(err)
		}
		m, _ := parser.Parse(line) // a damaged line is no message
		if m == nil {
			continue
		}
		next := &started{checksum: m.Checksum, delivered: saved.done[len(messages)]}
		if messages = append(messages, next); len(messages) == len(saved.done) {
			break
		}
	}
	if len(messages) < len(saved.done) || doneSum(c.config.Topics, messages) != saved.sum {
		c.config.Report("messages after the position may be delivered again: " +
			"the topics or the log are not those of " + c.config.State)
		return nil, nil
	}
	return messages, nil
}
