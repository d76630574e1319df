package org.palmtop.core.bundle;

import java.io.IOException;
import java.io.Reader;
import java.io.StringReader;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A JSON reader: of whole small documents ({@link #parse}), or value by value through a long one (tokenizer.json).
 *
 * <p>Accepts what Python's reader accepts. Objects are LinkedHashMap, arrays ArrayList, whole numbers Long or
 * BigInteger, others Double.
 */
public final class Json {
    private static final int MAX_DEPTH = 900;
    private static final int MAX_DIGITS = 4300;
    private static final int MAX_BRIEF = 60;
    private static final int END = -1;

    private final Reader source;
    private int next;
    private long position = -1;
    private int depth;

    /** {@code source} is best a BufferedReader. */
    public Json(Reader source) throws IOException {
        this.source = source;
        advance();
    }

    /** The value of a whole document. */
    public static Object parse(String text) throws SyntaxException {
        try {
            Json json = new Json(new StringReader(text));
            Object value = json.value();
            json.end();
            return value;
        } catch (SyntaxException error) {
            throw error;
        } catch (IOException error) {
            throw new AssertionError(error); // a StringReader does not fail
        }
    }

    /** A value's type: "an object", "a list", "text", "a number", "true", "false" or "null". */
    public static String kind(Object value) {
        if (value == null || value instanceof Boolean) {
            return String.valueOf(value);
        }
        if (value instanceof String) {
            return "text";
        }
        return value instanceof Number ? "a number" : value instanceof List ? "a list" : "an object";
    }

    /** A value for an error message: text in quotes and a number shortened, a list or an object by its kind. */
    public static String brief(Object value) {
        if (value instanceof String) {
            return "'" + shortened((String) value) + "'";
        }
        return value instanceof Number ? shortened(value.toString()) : kind(value);
    }

    private static String shortened(String text) {
        int length = text.codePointCount(0, text.length());
        return length <= MAX_BRIEF ? text : text.substring(0, text.offsetByCodePoints(0, MAX_BRIEF - 3)) + "...";
    }

    /** The document is not JSON. */
    public static final class SyntaxException extends IOException {
        private static final long serialVersionUID = 1L;

        SyntaxException(String message) {
            super(message);
        }
    }

    /** Enter an object; then {@link #key} until it gives null. */
    public void beginObject() throws IOException {
        open('{');
    }

    /** Enter an array; then {@link #hasElement} before each value. */
    public void beginArray() throws IOException {
        open('[');
    }

    /** The next key of the object, its colon read; null behind the last. */
    public String key() throws IOException {
        if (!hasMore('}', '{')) {
            return null;
        }
        blanks();
        String key = string();
        expect(':', "Expecting ':' delimiter");
        return key;
    }

    /** Whether another value follows in the array. */
    public boolean hasElement() throws IOException {
        return hasMore(']', '[');
    }

    /** Whether the value that comes next is an object, an array, or a string: '{', '[' or '"'. */
    public boolean isNext(char opening) throws IOException {
        blanks();
        return next == opening;
    }

    /** Read a value whole. */
    public Object value() throws IOException {
        blanks();
        if (next == '{') {
            Map<String, Object> object = new LinkedHashMap<String, Object>();
            beginObject();
            for (String key = key(); key != null; key = key()) {
                object.put(key, value());
            }
            return object;
        }
        if (next == '[') {
            List<Object> array = new ArrayList<Object>();
            beginArray();
            while (hasElement()) {
                array.add(value());
            }
            return array;
        }
        return next == '"' ? string() : scalar();
    }

    /** Nothing but blanks may follow. */
    public void end() throws IOException {
        blanks();
        if (next != END) {
            throw error("Extra data");
        }
    }

    private void open(char bracket) throws IOException {
        expect(bracket, "Expecting '" + bracket + "'");
        if (++depth > MAX_DEPTH) {
            throw error("maximum recursion depth exceeded");
        }
        fresh = true;
    }

    private boolean fresh;

    private boolean hasMore(char closing, char opening) throws IOException {
        blanks();
        boolean isFirst = fresh;
        fresh = false;
        if (next == closing) {
            advance();
            depth--;
            return false;
        }
        if (!isFirst) {
            expect(',', "Expecting ',' delimiter");
            blanks();
            if (next == closing) {
                throw error(opening == '{' ? "Expecting property name enclosed in double quotes" : "Expecting value");
            }
        }
        return true;
    }

    private String string() throws IOException {
        blanks();
        if (next != '"') {
            throw error("Expecting property name enclosed in double quotes");
        }
        advance();
        StringBuilder text = new StringBuilder();
        while (next != '"') {
            if (next == END) {
                throw error("Unterminated string");
            }
            if (next < ' ') {
                throw error("Invalid control character");
            }
            int letter = next;
            advance();
            text.append(letter == '\\' ? escape() : (char) letter);
        }
        advance();
        return text.toString();
    }

    private char escape() throws IOException {
        int letter = next;
        advance();
        int place = "\"\\/bfnrt".indexOf(letter);
        if (letter != END && place >= 0) {
            return "\"\\/\b\f\n\r\t".charAt(place);
        }
        if (letter != 'u') {
            throw error("Invalid \\escape");
        }
        int code = 0;
        for (int i = 0; i < 4; i++) {
            int digit = next < 0x80 ? Character.digit((char) Math.max(next, 0), 16) : -1;
            if (digit < 0) {
                throw error("Invalid \\uXXXX escape");
            }
            code = code * 16 + digit;
            advance();
        }
        return (char) code;
    }

    private Object scalar() throws IOException {
        StringBuilder text = new StringBuilder();
        while (next != END && (Character.isLetterOrDigit(next) || next == '-' || next == '+' || next == '.')) {
            text.append((char) next);
            advance();
        }
        String word = text.toString();
        switch (word) {
            case "null":
                return null;
            case "true":
                return Boolean.TRUE;
            case "false":
                return Boolean.FALSE;
            case "NaN":
                return Double.NaN;
            case "Infinity":
                return Double.POSITIVE_INFINITY;
            case "-Infinity":
                return Double.NEGATIVE_INFINITY;
            default:
                return number(word);
        }
    }

    private Object number(String word) throws IOException {
        if (word.matches("-?(0|[1-9][0-9]*)")) {
            if (word.length() > MAX_DIGITS) {
                throw error("Exceeds the limit (" + MAX_DIGITS + " digits) for integer string conversion");
            }
            BigInteger whole = new BigInteger(word);
            return whole.bitLength() < 64 ? (Object) whole.longValue() : whole;
        }
        if (!word.matches("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][-+]?[0-9]+)?")) {
            throw error("Expecting value");
        }
        return Double.valueOf(word);
    }

    private void expect(char letter, String message) throws IOException {
        blanks();
        if (next != letter) {
            throw error(message);
        }
        advance();
    }

    private void blanks() throws IOException {
        while (next == ' ' || next == '\n' || next == '\r' || next == '\t') {
            advance();
        }
    }

    private void advance() throws IOException {
        next = source.read();
        position++;
    }

    private SyntaxException error(String message) {
        return new SyntaxException(message + ": char " + position);
    }
}
