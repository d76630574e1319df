package org.palmtop.app.logic;

import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.JsonText;

/** Plain values as JSON text, the counterpart of the core's reader. */
final class JsonWriter {
    private JsonWriter() {}

    static String write(Object value) {
        StringBuilder text = new StringBuilder();
        append(text, value);
        return text.toString();
    }

    private static void append(StringBuilder text, Object value) {
        if (value instanceof Map) {
            text.append('{');
            String comma = "";
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                text.append(comma).append(JsonText.quote((String) entry.getKey())).append(':');
                append(text, entry.getValue());
                comma = ",";
            }
            text.append('}');
        } else if (value instanceof List) {
            text.append('[');
            String comma = "";
            for (Object item : (List<?>) value) {
                text.append(comma);
                append(text, item);
                comma = ",";
            }
            text.append(']');
        } else if (value instanceof String) {
            text.append(JsonText.quote((String) value));
        } else {
            text.append(value); // null, true, numbers: Java's spelling is JSON's, NaN never comes here
        }
    }
}
