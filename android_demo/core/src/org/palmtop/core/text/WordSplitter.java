package org.palmtop.core.text;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.palmtop.core.bundle.Json;

/** The pre-tokenizer of a byte-level tokenizer.json: patterns that cut a text into words. */
final class WordSplitter {
    /** Unicode's White_Space, spelled out: a bare \s means different things to Java and to Android. */
    private static final String BLANKS = "\\t-\\r\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
    private static final String GPT2 =
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

    private final List<Pattern> patterns = new ArrayList<Pattern>();
    private final List<Boolean> keepsGaps = new ArrayList<Boolean>();

    /** {@code description} is tokenizer.json's "pre_tokenizer". */
    WordSplitter(Object description) {
        read(description);
    }

    List<String> split(String text) {
        List<String> words = new ArrayList<String>();
        words.add(text);
        for (int i = 0; i < patterns.size(); i++) {
            List<String> parts = new ArrayList<String>();
            for (String word : words) {
                cut(patterns.get(i), keepsGaps.get(i), word, parts);
            }
            words = parts;
        }
        return words;
    }

    private static void cut(Pattern pattern, boolean keepsGaps, String text, List<String> parts) {
        Matcher matcher = pattern.matcher(text);
        int at = 0;
        while (matcher.find()) {
            if (keepsGaps && matcher.start() > at) {
                parts.add(text.substring(at, matcher.start()));
            }
            if (matcher.end() > matcher.start()) {
                parts.add(matcher.group());
            }
            at = matcher.end();
        }
        if (keepsGaps && at < text.length()) {
            parts.add(text.substring(at));
        }
    }

    private void read(Object description) {
        if (!(description instanceof Map)) {
            throw Tokenizer.cannot("the pre-tokenizer " + Json.brief(description));
        }
        Map<?, ?> step = (Map<?, ?>) description;
        Object type = step.get("type");
        if ("Sequence".equals(type) && step.get("pretokenizers") instanceof List) {
            for (Object inner : (List<?>) step.get("pretokenizers")) {
                read(inner);
            }
        } else if ("ByteLevel".equals(type) && Boolean.FALSE.equals(step.get("add_prefix_space"))) {
            if (!Boolean.FALSE.equals(step.get("use_regex"))) {
                add(GPT2, true);
            }
        } else if ("Split".equals(type) && step.get("pattern") instanceof Map) {
            Object regex = ((Map<?, ?>) step.get("pattern")).get("Regex");
            boolean isIsolated = "Isolated".equals(step.get("behavior")); // both ways round it gives the same parts
            boolean isInverse = "Removed".equals(step.get("behavior")) && Boolean.TRUE.equals(step.get("invert"));
            if (!(regex instanceof String) || !(isIsolated || isInverse)) {
                throw Tokenizer.cannot("a split by " + Json.brief(step.get("behavior")));
            }
            add((String) regex, isIsolated);
        } else {
            throw Tokenizer.cannot("the pre-tokenizer " + Json.brief(type));
        }
    }

    private void add(String regex, boolean keeps) {
        try {
            patterns.add(Pattern.compile(translate(regex), Pattern.UNICODE_CASE));
        } catch (java.util.regex.PatternSyntaxException error) {
            throw Tokenizer.cannot("the pattern " + regex);
        }
        keepsGaps.add(keeps);
    }

    /** The same pattern for Java's and Android's engines alike. */
    private static String translate(String regex) {
        StringBuilder result = new StringBuilder();
        boolean isInClass = false;
        for (int i = 0; i < regex.length(); i++) {
            char letter = regex.charAt(i);
            if (letter == '\\' && i + 1 < regex.length()) {
                char next = regex.charAt(++i);
                if (next == 's') {
                    result.append(isInClass ? BLANKS : "[" + BLANKS + "]");
                } else if (next == 'S' && !isInClass) {
                    result.append("[^").append(BLANKS).append("]");
                } else if (next == 'd') {
                    result.append("\\p{Nd}");
                } else if ("SDwWbBhHvVRXK".indexOf(next) >= 0) {
                    throw Tokenizer.cannot("the pattern " + regex);
                } else {
                    result.append(letter).append(next);
                }
                continue;
            }
            if (letter == '[' && isInClass || letter == '&' && isInClass) {
                throw Tokenizer.cannot("the pattern " + regex); // nested classes differ between engines
            }
            isInClass = letter == '[' || isInClass && letter != ']';
            result.append(letter);
        }
        return result.toString();
    }
}
