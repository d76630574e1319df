package org.palmtop.core.text;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Keeps what users typed apart from what the template wrote; the rules of {@code processor/guard.py}. */
final class SpecialTokens {
    private static final int PRIVATE_USE = 0xF0000;

    /** Two characters that occur nowhere in the input. */
    static final class Marks {
        final String start;
        final String end;

        private Marks(int code) {
            start = new String(Character.toChars(code));
            end = new String(Character.toChars(code + 1));
        }

        /** The first pair that none of the texts holds. */
        static Marks unusedIn(Collection<String> texts) {
            for (int code = PRIVATE_USE; ; code += 2) {
                Marks marks = new Marks(code);
                boolean isFree = true;
                for (String text : texts) {
                    isFree &= !text.contains(marks.start) && !text.contains(marks.end);
                }
                if (isFree) {
                    return marks;
                }
            }
        }
    }

    /** A part of a prompt that is tokenised by itself; if spelled, control tokens in it are text. */
    static final class Segment {
        final String text;
        final boolean isSpelled;

        Segment(String text, boolean isSpelled) {
            this.text = text;
            this.isSpelled = isSpelled;
        }
    }

    /** Text of the n-th item of a kind in a rendered prompt, and its token. */
    static final class Placeholder {
        final String kind;
        final String token;
        private final String before;
        private final String after;
        private final boolean isNumbered;

        Placeholder(String kind, String text, String token) {
            this.kind = kind;
            this.token = token;
            int place = text.indexOf("{n}");
            isNumbered = place >= 0;
            before = isNumbered ? text.substring(0, place) : text;
            after = isNumbered ? text.substring(place + 3) : "";
        }

        String write(int number) {
            return isNumbered ? before + number + after.replace("{n}", String.valueOf(number)) : before;
        }

        String pattern() {
            return quote(before) + (isNumbered ? "\\p{Nd}+" : "") + quote(after);
        }

        /** The number in a placeholder; null if it is written without. */
        Long read(String written) {
            if (!isNumbered) {
                return null;
            }
            long number = 0;
            String digits = written.substring(before.length(), written.length() - after.length());
            for (int i = 0; i < digits.length(); i += Character.charCount(digits.codePointAt(i))) {
                number = Math.min(number * 10 + Character.digit(digits.codePointAt(i), 10), Integer.MAX_VALUE);
            }
            return number;
        }
    }

    /** A placeholder that was found after rendering. */
    static final class Place {
        final String kind;
        final Long number;

        Place(String kind, Long number) {
            this.kind = kind;
            this.number = number;
        }
    }

    /** Digits of a placeholder's number that are searched for across a border. */
    private static final int MAX_DIGITS = 20;

    private final Set<String> tokens = new HashSet<String>();
    private final List<Placeholder> placeholders;
    private final Pattern special;
    private final Pattern all;
    private final int longest;
    private final Set<String> heads = new HashSet<String>();
    private final Set<String> tails = new HashSet<String>();

    /** @param added further tokens, that only an assistant's message may hold. */
    SpecialTokens(Set<String> specialTokens, Set<String> added, List<Placeholder> placeholders) {
        this.placeholders = placeholders;
        tokens.addAll(specialTokens);
        tokens.addAll(added);
        special = anyOf(specialTokens);
        all = anyOf(tokens);
        Set<String> fragments = new HashSet<String>(tokens);
        for (Placeholder placeholder : placeholders) {
            fragments.add(placeholder.before + "0");
            fragments.add("0" + placeholder.after);
        }
        int most = 0;
        for (String token : fragments) {
            most = Math.max(most, token.length());
            for (int i = 1; i < token.length(); i++) {
                heads.add(token.substring(0, i));
                tails.add(token.substring(i));
            }
        }
        longest = most + MAX_DIGITS;
    }

    /**
     * Whether the texts on both sides of a mark together form a token or a placeholder. Only then is the text cut: two
     * parts may give other tokens than the whole.
     */
    private boolean joins(String before, String after, Marks marks) {
        int reach = longest + 2 * (marks.start.length() + marks.end.length());
        String head = unmarked(before.substring(Math.max(0, before.length() - reach)), marks);
        String text = head + unmarked(after.substring(0, Math.min(after.length(), reach)), marks);
        Matcher matcher = all.matcher(text);
        for (int start = 0; start < head.length(); start++) {
            if (matcher.region(start, text.length()).lookingAt() && matcher.end() > head.length()) {
                return true;
            }
        }
        return false;
    }

    private static String unmarked(String text, Marks marks) {
        return text.replace(marks.start, "").replace(marks.end, "");
    }

    /** Put control tokens between marks, and a mark where the text could join its neighbour into one. */
    String mark(String text, Marks marks, boolean isOwn) {
        Matcher matcher = (isOwn ? special : all).matcher(text);
        StringBuilder marked = new StringBuilder();
        int at = 0;
        while (matcher.find()) {
            marked.append(text, at, matcher.start());
            marked.append(marks.start).append(matcher.group()).append(marks.end);
            at = matcher.end();
        }
        String result = marked.append(text, at, text.length()).toString();
        String before = "";
        String after = "";
        for (String tail : tails) {
            before = result.startsWith(tail) ? marks.start : before;
        }
        for (String head : heads) {
            after = result.endsWith(head) ? marks.end : after;
        }
        return before + result + after;
    }

    /** Cut a rendered prompt at its marks and turn palmtop's placeholders into tokens; {@code places} is filled. */
    List<Segment> split(String rendered, Marks marks, List<Place> places) {
        StringBuilder pattern = new StringBuilder();
        pattern.append(marks.start).append("(").append(all.pattern()).append(")").append(marks.end);
        pattern.append("|").append(marks.start).append("|").append(marks.end);
        for (Placeholder placeholder : placeholders) {
            pattern.append("|(").append(placeholder.pattern()).append(")");
        }
        List<Segment> segments = new ArrayList<Segment>();
        StringBuilder pending = new StringBuilder();
        Matcher found = Pattern.compile(pattern.toString()).matcher(rendered);
        int at = 0;
        while (found.find()) {
            pending.append(rendered, at, found.start());
            at = found.end();
            Placeholder placeholder = placeholderOf(found);
            if (placeholder != null) {
                places.add(new Place(placeholder.kind, placeholder.read(found.group())));
                pending.append(placeholder.token);
            } else if (found.group(1) == null) {
                if (joins(rendered.substring(0, found.start()), rendered.substring(found.end()), marks)) {
                    flush(pending, segments);
                }
            } else if (tokens.contains(found.group(1))) {
                flush(pending, segments);
                segments.add(new Segment(found.group(1), true));
            } else { // a placeholder that is no token: spelled as it is, with the merges around it
                pending.append(found.group(1));
            }
        }
        pending.append(rendered, at, rendered.length());
        flush(pending, segments);
        return segments;
    }

    private Placeholder placeholderOf(Matcher found) {
        for (int i = 0; i < placeholders.size(); i++) {
            if (found.group(2 + i) != null) {
                return placeholders.get(i);
            }
        }
        return null;
    }

    private static void flush(StringBuilder pending, List<Segment> segments) {
        if (pending.length() > 0) {
            segments.add(new Segment(pending.toString(), false));
            pending.setLength(0);
        }
    }

    private Pattern anyOf(Set<String> texts) {
        StringBuilder result = new StringBuilder();
        for (Placeholder placeholder : placeholders) {
            result.append(placeholder.pattern()).append("|");
        }
        return Pattern.compile(result + AddedTokens.alternatives(new ArrayList<String>(texts)));
    }

    private static String quote(String text) {
        return text.isEmpty() ? "" : Pattern.quote(text);
    }
}
