package org.palmtop.core.bundle;

import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.palmtop.core.PalmtopException;

/** Flat objects of the manifest: every key there, of its type, within its limits ({@code json_fields.py}). */
final class JsonFields {
    static final String MANIFEST_FILE = "bundle.json";
    private static final BigDecimal FLOAT64_WHOLE = new BigDecimal(1L << 53);

    private JsonFields() {}

    /** A key's Python annotation, and the limits of its number or of each of its numbers, as Python writes them. */
    static final class Field {
        final String name;
        final String annotation;
        final String least;
        final String most;
        /** The texts that it may be; null for any. */
        final List<String> choices;

        Field(String name, String annotation) {
            this(name, annotation, null, null);
        }

        Field(String name, String annotation, String least, String most) {
            this(name, annotation, least, most, null);
        }

        static Field oneOf(String name, List<String> choices) {
            return new Field(name, "str", null, null, choices);
        }

        private Field(String name, String annotation, String least, String most, List<String> choices) {
            this.choices = choices;
            this.name = name;
            this.annotation = annotation;
            this.least = least;
            this.most = most;
        }
    }

    /** Check {@code data} against its fields and give it back. */
    static Map<String, Object> read(Object data, String where, Field... fields) {
        if (!(data instanceof Map)) {
            throw refuse("type", where, data, "an object");
        }
        Map<String, Object> object = object(data);
        TreeSet<String> names = new TreeSet<String>();
        for (Field field : fields) {
            names.add(field.name);
        }
        checkKeys(object, where, names);
        for (Field field : fields) {
            if (field.name.equals("states") && object.get("states") instanceof List) {
                continue; // whoever reads the decoder reads them
            }
            check(field, field.annotation, object.get(field.name), where + "." + field.name);
        }
        return object;
    }

    static void checkKeys(Map<String, Object> data, String where, Collection<String> names) {
        String prefix = where.isEmpty() ? "" : where + ".";
        for (String name : new TreeSet<String>(names)) {
            if (!data.containsKey(name)) {
                throw fault("missing", prefix + name, prefix + name + " is missing");
            }
        }
        for (String name : new TreeSet<String>(data.keySet())) {
            if (!names.contains(name)) {
                throw fault("unknown", prefix + name, prefix + name + " is not a known key");
            }
        }
    }

    static PalmtopException refuse(String where, Object found, String expected) {
        return refuse("value", where, found, expected);
    }

    static PalmtopException refuse(String code, String where, Object found, String expected) {
        return fault(code, where, where + " is " + Json.brief(found) + ", expected " + expected);
    }

    static PalmtopException fault(String code, String path, String message) {
        return PalmtopException.manifest(code, path, MANIFEST_FILE + ": " + message);
    }

    @SuppressWarnings("unchecked") // Json makes no other maps
    static Map<String, Object> object(Object value) {
        return (Map<String, Object>) value;
    }

    private static void check(Field field, String annotation, Object value, String where) {
        String kind = annotation.replace(" | None", "");
        if (!kind.equals(annotation) && value == null) {
            return;
        }
        if (kind.startsWith("tuple[")) {
            String[] kinds = kind.substring("tuple[".length(), kind.length() - 1).split(", ");
            boolean isOpen = kinds[kinds.length - 1].equals("...");
            if (!(value instanceof List) || (!isOpen && ((List<?>) value).size() != kinds.length)) {
                throw refuse("type", where, value, "a list for " + annotation);
            }
            int place = 0;
            for (Object part : (List<?>) value) {
                check(field, kinds[0], part, where + "[" + place++ + "]");
            }
        } else if (kind.startsWith("dict[str, ")) {
            if (!(value instanceof Map)) {
                throw refuse("type", where, value, "an object");
            }
            String inner = kind.substring("dict[str, ".length(), kind.length() - 1);
            for (Map.Entry<String, Object> entry : object(value).entrySet()) {
                check(field, inner, entry.getValue(), where + "." + entry.getKey());
            }
        } else {
            checkScalar(field, kind, value, where);
        }
    }

    private static void checkScalar(Field field, String kind, Object value, String where) {
        boolean isWhole = value instanceof Number && !(value instanceof Double);
        if (kind.equals("int | str")) {
            kind = value instanceof String ? "str" : "int";
        }
        if (field.choices != null && value instanceof String && !field.choices.contains(value)) {
            StringBuilder texts = new StringBuilder();
            for (String choice : field.choices) {
                texts.append(texts.length() > 0 ? ", " : "").append(choice);
            }
            throw refuse("choice", where, value, "one of " + texts);
        }
        boolean isOfKind = kind.equals("str") ? value instanceof String
                : kind.equals("bool") ? value instanceof Boolean
                : kind.equals("int") ? isWhole : value instanceof Number;
        if (!isOfKind) {
            throw refuse("type", where, value, kind);
        }
        if (!(value instanceof Number)) {
            return;
        }
        double rounded = ((Number) value).doubleValue();
        if (value instanceof Double && (Double.isNaN(rounded) || Double.isInfinite(rounded))) {
            throw refuse("range", where, value, "a finite number");
        }
        BigDecimal exact = decimal((Number) value);
        if (field.least != null
                && (exact.compareTo(new BigDecimal(field.least)) < 0
                        || exact.compareTo(new BigDecimal(field.most)) > 0)) {
            throw refuse("range", where, value, field.least + " to " + field.most);
        }
        if (kind.equals("float") && isWhole && exact.abs().compareTo(FLOAT64_WHOLE) > 0) {
            throw refuse("range", where, value, "a number that float64 holds");
        }
    }

    static BigDecimal decimal(Number value) {
        if (value instanceof BigInteger) {
            return new BigDecimal((BigInteger) value);
        }
        return value instanceof Double ? new BigDecimal(value.doubleValue()) : new BigDecimal(value.longValue());
    }
}
