package main

import (
	"strings"
)

const upperHex = "0123456789ABCDEF"

// isPlain reports whether b is itself in a subject, wherever it is.
func isPlain(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '_' || b == '-'
}

// appendSubject appends to prefix the part of a subject that topic becomes: letters, digits,
// _ and - stay, and so does a dot between two other bytes. Every other byte, % too, becomes
// % and its value in hexadecimal. So each topic has a subject of its own, and the engine
// takes all of them: it refuses empty tokens, white space and wildcards.
func appendSubject(prefix []byte, topic string) []byte {
	for i := range len(topic) {
		b := topic[i]
		isInner := b == '.' && i > 0 && i < len(topic)-1 && topic[i-1] != '.' && topic[i+1] != '.'
		if isPlain(b) || isInner {
			prefix = append(prefix, b)
		} else {
			prefix = append(prefix, '%', upperHex[b>>4], upperHex[b&0xf])
		}
	}
	return prefix
}

// covers reports whether pattern, a subject with wildcards, matches every subject that
// starts with prefix.
func covers(pattern, prefix string) bool {
	wanted := strings.Split(prefix+">", ".")
	for i, token := range strings.Split(pattern, ".") {
		switch {
		case token == ">":
			return true
		case i >= len(wanted)-1, token != "*" && token != wanted[i]:
			return false
		}
	}
	return false
}
