package org.palmtop.core.bundle;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.math.MathContext;
import java.math.RoundingMode;
import java.util.List;
import java.util.Map;

/** Values as Python writes them, so that both runtimes explain a damaged bundle in the same words. */
public final class PythonText {
    private static final int MAX_BRIEF = 60;

    private PythonText() {}

    /** Name of the Python type that JSON gives. */
    public static String typeName(Object value) {
        if (value == null) {
            return "NoneType";
        }
        if (value instanceof Boolean) {
            return "bool";
        }
        if (value instanceof Long || value instanceof Integer || value instanceof BigInteger) {
            return "int";
        }
        if (value instanceof Number) {
            return "float";
        }
        if (value instanceof String) {
            return "str";
        }
        return value instanceof List ? "list" : "dict";
    }

    /** {@code repr}, of lists too. */
    public static String repr(Object value) {
        if (value == null) {
            return "None";
        }
        if (value instanceof Boolean) {
            return (Boolean) value ? "True" : "False";
        }
        if (value instanceof Double || value instanceof Float) {
            return reprFloat(((Number) value).doubleValue());
        }
        if (value instanceof String) {
            return reprString((String) value);
        }
        if (value instanceof List) {
            StringBuilder text = new StringBuilder("[");
            for (Object part : (List<?>) value) {
                text.append(text.length() > 1 ? ", " : "").append(repr(part));
            }
            return text.append("]").toString();
        }
        if (value instanceof Map) {
            StringBuilder text = new StringBuilder("{");
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                text.append(text.length() > 1 ? ", " : "");
                text.append(repr(entry.getKey())).append(": ").append(repr(entry.getValue()));
            }
            return text.append("}").toString();
        }
        return value.toString();
    }

    /** A number with so many digits behind the point, halves to the even digit: Java's own formats round them up. */
    public static String fixed(double value, int digits) {
        return new BigDecimal(value).setScale(digits, RoundingMode.HALF_EVEN).toPlainString();
    }

    /** A value for an error message: short, containers by their type's name. */
    static String brief(Object value) {
        if (value instanceof BigInteger && ((BigInteger) value).abs().bitLength() > 200) {
            return "a number of " + ((BigInteger) value).abs().bitLength() + " bits";
        }
        boolean isContainer = value instanceof List || value instanceof Map;
        String text = isContainer ? typeName(value) : repr(value);
        int length = text.codePointCount(0, text.length());
        return length <= MAX_BRIEF ? text : text.substring(0, text.offsetByCodePoints(0, MAX_BRIEF - 3)) + "...";
    }

    private static String reprFloat(double value) {
        if (Double.isNaN(value)) {
            return "nan";
        }
        if (Double.isInfinite(value)) {
            return value > 0 ? "inf" : "-inf";
        }
        if (value == 0) {
            return 1 / value < 0 ? "-0.0" : "0.0";
        }
        BigDecimal exact = new BigDecimal(value);
        for (int digits = 1; digits <= 17; digits++) { // the shortest that reads back as this number
            BigDecimal rounded = new BigDecimal(value).round(new MathContext(digits, RoundingMode.HALF_EVEN));
            if (rounded.doubleValue() == value) {
                exact = rounded.stripTrailingZeros();
                break;
            }
        }
        int exponent = exact.precision() - exact.scale() - 1;
        if (exponent >= -4 && exponent < 16) {
            String plain = exact.toPlainString();
            return plain.indexOf('.') < 0 ? plain + ".0" : plain;
        }
        String digits = exact.unscaledValue().abs().toString();
        String tail = digits.length() > 1 ? "." + digits.substring(1) : "";
        String power = (exponent < 0 ? "-" : "+") + (Math.abs(exponent) < 10 ? "0" : "") + Math.abs(exponent);
        return (value < 0 ? "-" : "") + digits.charAt(0) + tail + "e" + power;
    }

    private static String reprString(String value) {
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
