package org.palmtop.app.logic;

import java.util.LinkedHashMap;
import java.util.Map;

/** A picture or a recording that goes with a message: a file of the app's own, and what to call it. */
public final class Attachment {
    public enum Kind {
        IMAGE,
        AUDIO;

        /** Kind of a MIME type; null for one that is neither, and for none. */
        public static Kind of(String type) {
            if (type == null) {
                return null;
            }
            return type.startsWith("image/")
                    ? IMAGE
                    : type.startsWith("audio/") || type.equals("application/ogg") ? AUDIO : null;
        }
    }

    public final Kind kind;
    /** Absolute path of the app's own copy. */
    public final String path;
    /** Pixels of an upright picture; 0 for a recording. */
    public final int width;
    public final int height;
    /** Length of a recording; 0 for a picture. */
    public final double seconds;

    private Attachment(Kind kind, String path, int width, int height, double seconds) {
        this.kind = kind;
        this.path = path;
        this.width = width;
        this.height = height;
        this.seconds = seconds;
    }

    public static Attachment image(String path, int width, int height) {
        return new Attachment(Kind.IMAGE, path, width, height, 0);
    }

    public static Attachment audio(String path, double seconds) {
        return new Attachment(Kind.AUDIO, path, 0, 0, seconds);
    }

    Map<String, Object> toMap() {
        Map<String, Object> map = new LinkedHashMap<String, Object>();
        map.put("kind", kind.name());
        map.put("path", path);
        map.put("width", (long) width);
        map.put("height", (long) height);
        map.put("seconds", seconds);
        return map;
    }

    static Attachment fromMap(Map<?, ?> map) {
        return new Attachment(
                Kind.valueOf((String) map.get("kind")),
                (String) map.get("path"),
                ((Number) map.get("width")).intValue(),
                ((Number) map.get("height")).intValue(),
                ((Number) map.get("seconds")).doubleValue());
    }
}
