package org.palmtop.core.text;

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Tokens that are found in a text before it is cut into words. */
final class AddedTokens {
    /** One of them. */
    static final class Added {
        final int id;
        final String text;
        final boolean isSpecial;
        private final boolean stripsLeft;
        private final boolean stripsRight;
        private final boolean isNormalized;

        Added(Map<?, ?> data) {
            id = ((Long) data.get("id")).intValue();
            text = (String) data.get("content");
            isSpecial = Boolean.TRUE.equals(data.get("special"));
            stripsLeft = Boolean.TRUE.equals(data.get("lstrip"));
            stripsRight = Boolean.TRUE.equals(data.get("rstrip"));
            isNormalized = Boolean.TRUE.equals(data.get("normalized"));
            if (Boolean.TRUE.equals(data.get("single_word"))) {
                throw Tokenizer.cannot("the single-word token " + text);
            }
        }
    }

    /** Takes what is found, in order. */
    interface Sink {
        void text(String text);

        void token(int id);
    }

    private final List<Added> tokens = new ArrayList<Added>();
    private final Map<String, Added> byText = new HashMap<String, Added>();
    private final Pattern asTyped;
    private final Pattern normalized;

    AddedTokens(List<?> data) {
        for (Object entry : data) {
            Added token = new Added((Map<?, ?>) entry);
            tokens.add(token);
            byText.put(token.text, token);
        }
        asTyped = anyOf(false);
        normalized = anyOf(true);
    }

    List<Added> all() {
        return tokens;
    }

    /** Cut a text at the tokens in it. Those that are not "normalized" are looked for first, in the whole text. */
    void split(String text, final Sink sink) {
        split(asTyped, text, new Sink() {
            @Override
            public void text(String rest) {
                split(normalized, rest, sink);
            }

            @Override
            public void token(int id) {
                sink.token(id);
            }
        });
    }

    private void split(Pattern pattern, String text, Sink sink) {
        Matcher matcher = pattern.matcher(text);
        int at = 0;
        while (matcher.find()) {
            Added token = byText.get(matcher.group());
            int start = matcher.start();
            int stop = matcher.end();
            while (token.stripsLeft && start > at && TemplateValues.isBlank(text.charAt(start - 1))) {
                start--;
            }
            while (token.stripsRight && stop < text.length() && TemplateValues.isBlank(text.charAt(stop))) {
                stop++;
            }
            if (start > at) {
                sink.text(text.substring(at, start));
            }
            sink.token(token.id);
            at = stop;
        }
        if (at < text.length()) {
            sink.text(text.substring(at));
        }
    }

    /** The leftmost token, of those that start there the longest. */
    private Pattern anyOf(boolean isNormalized) {
        List<String> texts = new ArrayList<String>();
        for (Added token : tokens) {
            if (token.isNormalized == isNormalized && !token.text.isEmpty()) {
                texts.add(token.text);
            }
        }
        return Pattern.compile(alternatives(texts));
    }

    /** A regular expression for any of these texts, longest first. */
    static String alternatives(List<String> texts) {
        List<String> sorted = new ArrayList<String>(texts);
        Collections.sort(sorted, new Comparator<String>() {
            @Override
            public int compare(String left, String right) {
                return right.codePointCount(0, right.length()) - left.codePointCount(0, left.length());
            }
        });
        StringBuilder result = new StringBuilder();
        for (String text : sorted) {
            result.append(result.length() > 0 ? "|" : "").append(Pattern.quote(text));
        }
        return result.length() > 0 ? result.toString() : "(?!)";
    }
}
