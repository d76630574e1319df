package org.palmtop.core.text;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.Json;

/** Python's and Jinja's rules for the values a chat template works with. */
final class TemplateValues {
    /** A name or key that is not there. */
    static final Object UNDEFINED = new Object();

    private TemplateValues() {}

    /** A template did with a value what Python would not; becomes "the template refuses these messages". */
    static final class ValueException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        ValueException(String message) {
            super(message);
        }
    }

    static boolean isTrue(Object value) {
        if (value == null || value == UNDEFINED) {
            return false;
        }
        if (value instanceof Boolean) {
            return (Boolean) value;
        }
        if (value instanceof Long) {
            return (Long) value != 0;
        }
        return length(value) > 0;
    }

    static long length(Object value) {
        if (value instanceof String) {
            return ((String) value).codePointCount(0, ((String) value).length());
        }
        if (value instanceof Map) {
            return ((Map<?, ?>) value).size();
        }
        if (value instanceof List) {
            return ((List<?>) value).size();
        }
        if (value == UNDEFINED) {
            return 0;
        }
        throw new ValueException(Json.kind(value) + " has no length");
    }

    static String show(Object value) {
        if (value == UNDEFINED) {
            return "";
        }
        return value instanceof String ? (String) value : TemplateText.of(value);
    }

    static boolean isEqual(Object left, Object right) {
        if (left instanceof Boolean && right instanceof Long || left instanceof Long && right instanceof Boolean) {
            return number(left) == number(right);
        }
        return left == null ? right == null : left.equals(right);
    }

    /** Negative, zero or positive. */
    static int compare(Object left, Object right) {
        if (left instanceof String && right instanceof String) {
            return codePoints((String) left).compareTo(codePoints((String) right));
        }
        return Long.compare(number(left), number(right));
    }

    static Object add(Object left, Object right) {
        if (left instanceof String && right instanceof String) {
            return (String) left + right;
        }
        if (left instanceof List && right instanceof List) {
            List<Object> sum = new ArrayList<Object>((List<?>) left);
            sum.addAll((List<?>) right);
            return sum;
        }
        if (left instanceof String || right instanceof String || left == null || right == null) {
            throw new ValueException(Json.kind(left) + " and " + Json.kind(right) + " cannot be added");
        }
        return number(left) + number(right);
    }

    static long number(Object value) {
        if (value instanceof Long) {
            return (Long) value;
        }
        if (value instanceof Boolean) {
            return (Boolean) value ? 1 : 0;
        }
        throw new ValueException("found " + (value == UNDEFINED ? "an undefined value" : Json.kind(value))
                + ", expected a number");
    }

    static boolean contains(Object container, Object item) {
        if (container instanceof String && item instanceof String) {
            return ((String) container).contains((String) item);
        }
        if (container instanceof Map) {
            return ((Map<?, ?>) container).containsKey(item);
        }
        if (container instanceof List) {
            for (Object part : (List<?>) container) {
                if (isEqual(part, item)) {
                    return true;
                }
            }
            return false;
        }
        if (container == UNDEFINED) {
            return false;
        }
        throw new ValueException(Json.kind(container) + " contains nothing, expected text, a list or an object");
    }

    /** {@code container[key]} and {@code container.key}: undefined where there is none. */
    static Object item(Object container, Object key) {
        if (container == UNDEFINED) {
            throw new ValueException("an undefined value has no '" + show(key) + "'");
        }
        if (container instanceof Map) {
            Map<?, ?> map = (Map<?, ?>) container;
            return map.containsKey(key) ? map.get(key) : UNDEFINED;
        }
        if (!(key instanceof Long)) {
            return UNDEFINED;
        }
        long index = (Long) key < 0 ? (Long) key + length(container) : (Long) key;
        if (index < 0 || index >= length(container)) {
            return UNDEFINED;
        }
        return slice(container, index, index + 1, true);
    }

    /** {@code container[start:stop]}, or its only element. */
    static Object slice(Object container, Long start, Long stop, boolean isElement) {
        long length = length(container);
        int first = (int) clamp(start == null ? 0 : start, length);
        int last = (int) Math.max(first, clamp(stop == null ? length : stop, length));
        if (container instanceof String) {
            String text = (String) container;
            return text.substring(text.offsetByCodePoints(0, first), text.offsetByCodePoints(0, last));
        }
        if (!(container instanceof List)) {
            throw new ValueException(Json.kind(container) + " has no items, expected text or a list");
        }
        List<?> list = (List<?>) container;
        return isElement ? list.get(first) : new ArrayList<Object>(list.subList(first, last));
    }

    static String strip(String text) {
        int start = 0;
        while (start < text.length() && isBlank(text.charAt(start))) {
            start++;
        }
        return stripEnd(text.substring(start));
    }

    static String stripEnd(String text) {
        int end = text.length();
        while (end > 0 && isBlank(text.charAt(end - 1))) {
            end--;
        }
        return text.substring(0, end);
    }

    /** {@code str.isspace} of one character. */
    static boolean isBlank(char letter) {
        return Character.isWhitespace(letter) || Character.isSpaceChar(letter) || letter == '\u0085';
    }

    private static long clamp(long place, long length) {
        return Math.max(0, Math.min(length, place < 0 ? place + length : place));
    }

    /** A key whose order is that of Python's strings: by code points, not UTF-16 units. */
    private static String codePoints(String text) {
        StringBuilder key = new StringBuilder();
        for (int i = 0; i < text.length(); i += Character.charCount(text.codePointAt(i))) {
            key.append((char) (text.codePointAt(i) >> 16)).append((char) text.codePointAt(i));
        }
        return key.toString();
    }
}
