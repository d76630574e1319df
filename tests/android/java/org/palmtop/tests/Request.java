package org.palmtop.tests;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.JsonText;

/** Typed access to a request, raw files of numbers, and JSON for answers. */
final class Request {
    private final Map<?, ?> data;

    Request(Map<?, ?> data) {
        this.data = data;
    }

    String text(String key) {
        return (String) data.get(key);
    }

    int number(String key) {
        return ((Number) data.get(key)).intValue();
    }

    Object any(String key) {
        return data.get(key);
    }

    boolean has(String key) {
        return data.get(key) != null;
    }

    List<?> list(String key) {
        return (List<?>) data.get(key);
    }

    /** Names and weights; null where the request says nothing. */
    Map<String, Double> weights(String key) {
        if (!has(key)) {
            return null;
        }
        Map<String, Double> result = new LinkedHashMap<String, Double>();
        for (Map.Entry<?, ?> entry : ((Map<?, ?>) data.get(key)).entrySet()) {
            result.put((String) entry.getKey(), ((Number) entry.getValue()).doubleValue());
        }
        return result;
    }

    File file(String key) {
        return new File(text(key));
    }

    int[] integers(String key) {
        int[] result = new int[list(key).size()];
        for (int i = 0; i < result.length; i++) {
            result[i] = ((Number) list(key).get(i)).intValue();
        }
        return result;
    }

    static byte[] bytes(File path) throws IOException {
        try (RandomAccessFile file = new RandomAccessFile(path, "r")) {
            byte[] content = new byte[(int) file.length()];
            file.readFully(content);
            return content;
        }
    }

    static float[] floats(File path) throws IOException {
        ByteBuffer content = ByteBuffer.wrap(bytes(path)).order(ByteOrder.LITTLE_ENDIAN);
        float[] result = new float[content.remaining() / 4];
        content.asFloatBuffer().get(result);
        return result;
    }

    static void write(File path, ByteBuffer content) throws IOException {
        try (FileOutputStream stream = new FileOutputStream(path)) {
            content.rewind();
            stream.getChannel().write(content);
        }
    }

    static void write(File path, float[] numbers) throws IOException {
        ByteBuffer content = ByteBuffer.allocate(4 * numbers.length).order(ByteOrder.LITTLE_ENDIAN);
        content.asFloatBuffer().put(numbers);
        write(path, content);
    }

    static String write(Object value) {
        StringBuilder text = new StringBuilder();
        if (value instanceof Map) {
            for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
                text.append(text.length() > 0 ? "," : "");
                text.append(JsonText.quote(String.valueOf(entry.getKey()))).append(":").append(write(entry.getValue()));
            }
            return "{" + text + "}";
        }
        if (value instanceof Collection) {
            for (Object part : (Collection<?>) value) {
                text.append(text.length() > 0 ? "," : "").append(write(part));
            }
            return "[" + text + "]";
        }
        if (value instanceof Object[]) {
            return write(java.util.Arrays.asList((Object[]) value));
        }
        if (value instanceof int[]) {
            for (int part : (int[]) value) {
                text.append(text.length() > 0 ? "," : "").append(part);
            }
            return "[" + text + "]";
        }
        return value instanceof String ? JsonText.quote((String) value) : String.valueOf(value);
    }
}
