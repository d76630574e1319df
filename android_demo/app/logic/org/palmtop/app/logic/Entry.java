package org.palmtop.app.logic;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** One message of the chat as it is shown and kept. Never changed: a growing answer is one entry after another. */
public final class Entry {
    public enum Status {
        /** Complete. */
        DONE,
        /** Being written now. */
        WRITING,
        /** The user pressed stop; the text so far stands. */
        STOPPED,
        /** The phone closed the app in mid-answer; the text so far stands. */
        INTERRUPTED,
        /** No answer came; {@code trouble} says why. */
        FAILED
    }

    public final boolean isUser;
    public final String text;
    public final List<Attachment> attachments;
    public final Status status;
    /** Reason of a failed answer, else null. */
    public final Trouble trouble;
    /** The engine's own sentence about it, or what the answer cost; may be empty. */
    public final String detail;

    private Entry(
            boolean isUser, String text, List<Attachment> attachments, Status status, Trouble trouble, String detail) {
        this.isUser = isUser;
        this.text = text;
        this.attachments = Collections.unmodifiableList(new ArrayList<Attachment>(attachments));
        this.status = status;
        this.trouble = trouble;
        this.detail = detail;
    }

    public static Entry user(String text, List<Attachment> attachments) {
        return new Entry(true, text, attachments, Status.DONE, null, "");
    }

    public static Entry answer(String text, Status status, String detail) {
        return new Entry(false, text, Collections.<Attachment>emptyList(), status, null, detail);
    }

    public static Entry failure(String text, Trouble trouble, String detail) {
        return new Entry(false, text, Collections.<Attachment>emptyList(), Status.FAILED, trouble, detail);
    }

    /** Marks an answer that a killed app left incomplete as interrupted. */
    Entry afterRestart() {
        return status == Status.WRITING ? answer(text, Status.INTERRUPTED, detail) : this;
    }

    Map<String, Object> toMap() {
        Map<String, Object> map = new LinkedHashMap<String, Object>();
        map.put("user", isUser);
        map.put("text", text);
        List<Object> items = new ArrayList<Object>();
        for (Attachment attachment : attachments) {
            items.add(attachment.toMap());
        }
        map.put("attachments", items);
        map.put("status", status.name());
        map.put("trouble", trouble == null ? null : trouble.name());
        map.put("detail", detail);
        return map;
    }

    static Entry fromMap(Map<?, ?> map) {
        List<Attachment> items = new ArrayList<Attachment>();
        for (Object item : (List<?>) map.get("attachments")) {
            items.add(Attachment.fromMap((Map<?, ?>) item));
        }
        Object trouble = map.get("trouble");
        return new Entry(
                (Boolean) map.get("user"),
                (String) map.get("text"),
                items,
                Status.valueOf((String) map.get("status")),
                trouble == null ? null : Trouble.valueOf((String) trouble),
                (String) map.get("detail"));
    }
}
