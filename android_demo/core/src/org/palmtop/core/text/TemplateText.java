package org.palmtop.core.text;

import java.util.List;
import java.util.Map;

/** Values as a template writes them into the prompt: Jinja writes a list or an object as Python's source code. */
final class TemplateText {
    private TemplateText() {}

    static String of(Object value) {
        if (value == null) {
            return "None";
        }
        if (value instanceof Boolean) {
            return (Boolean) value ? "True" : "False";
        }
        if (value instanceof String) {
            return quoted((String) value);
        }
        StringBuilder text = new StringBuilder();
        if (value instanceof List) {
            for (Object part : (List<?>) value) {
                text.append(text.length() > 0 ? ", " : "").append(of(part));
            }
            return "[" + text + "]";
        }
        if (value instanceof Map) {
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                text.append(text.length() > 0 ? ", " : "");
                text.append(of(entry.getKey())).append(": ").append(of(entry.getValue()));
            }
            return "{" + text + "}";
        }
        return value.toString(); // a whole number: templates with other numbers are refused
    }

    private static String quoted(String value) {
        char quote = value.indexOf('\'') >= 0 && value.indexOf('"') < 0 ? '"' : '\'';
        StringBuilder text = new StringBuilder().append(quote);
        for (int at = 0; at < value.length(); ) {
            int code = value.codePointAt(at);
            at += Character.charCount(code);
            if (code == quote || code == '\\') {
                text.append('\\').appendCodePoint(code);
            } else if (code == '\n' || code == '\r' || code == '\t') {
                text.append(code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
            } else if (isPrintable(code)) {
                text.appendCodePoint(code);
            } else if (code < 0x100) {
                text.append("\\x").append(hex(code, 2));
            } else {
                text.append(code < 0x10000 ? "\\u" + hex(code, 4) : "\\U" + hex(code, 8));
            }
        }
        return text.append(quote).toString();
    }

    private static boolean isPrintable(int code) {
        switch (Character.getType(code)) {
            case Character.CONTROL:
            case Character.FORMAT:
            case Character.SURROGATE:
            case Character.PRIVATE_USE:
            case Character.UNASSIGNED:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
                return false;
            case Character.SPACE_SEPARATOR:
                return code == ' ';
            default:
                return true;
        }
    }

    private static String hex(int code, int width) {
        StringBuilder digits = new StringBuilder(Integer.toHexString(code));
        while (digits.length() < width) {
            digits.insert(0, '0');
        }
        return digits.toString();
    }
}
