package org.palmtop.app;

import android.content.Context;
import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.BaseAdapter;
import android.widget.ImageView;
import android.widget.LinearLayout;
import android.widget.TextView;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Entry;

/** The chat's messages as rows of the list. */
final class MessageList extends BaseAdapter {
    private static final int USER = 0;
    private static final int ANSWER = 1;
    private static final double LOWEST_PICTURE = 0.2;
    private static final double HIGHEST_PICTURE = 1.4;

    private final Context context;
    private final Thumbnails thumbnails;
    private final View.OnClickListener onRetry;
    private List<Entry> entries = new ArrayList<Entry>();
    private boolean canRetry;

    MessageList(Context context, Thumbnails thumbnails, View.OnClickListener onRetry) {
        this.context = context;
        this.thumbnails = thumbnails;
        this.onRetry = onRetry;
    }

    void show(List<Entry> now, boolean isReady) {
        entries = now;
        canRetry = isReady;
        notifyDataSetChanged();
    }

    @Override
    public int getCount() {
        return entries.size();
    }

    @Override
    public Entry getItem(int position) {
        return entries.get(position);
    }

    @Override
    public long getItemId(int position) {
        return position;
    }

    @Override
    public int getViewTypeCount() {
        return 2;
    }

    @Override
    public int getItemViewType(int position) {
        return entries.get(position).isUser ? USER : ANSWER;
    }

    @Override
    public View getView(int position, View old, ViewGroup parent) {
        Entry entry = entries.get(position);
        View row = old;
        if (row == null) {
            int layout = entry.isUser ? R.layout.item_user : R.layout.item_answer;
            row = LayoutInflater.from(context).inflate(layout, parent, false);
        }
        if (entry.isUser) {
            showQuestion(row, entry);
        } else {
            showAnswer(row, entry, position == entries.size() - 1);
        }
        return row;
    }

    private void showQuestion(View row, Entry entry) {
        TextView text = (TextView) row.findViewById(R.id.text);
        text.setText(entry.text);
        text.setContentDescription(context.getString(R.string.you_said, entry.text));
        text.setVisibility(entry.text.isEmpty() ? View.GONE : View.VISIBLE);
        LinearLayout media = (LinearLayout) row.findViewById(R.id.media);
        if (entry.attachments.equals(media.getTag())) {
            return; // rows are asked for again with every word of an answer
        }
        media.setTag(entry.attachments);
        media.removeAllViews();
        for (Attachment attachment : entry.attachments) {
            boolean isImage = attachment.kind == Attachment.Kind.IMAGE;
            int layout = isImage ? R.layout.item_picture : R.layout.item_sound;
            View view = LayoutInflater.from(context).inflate(layout, media, false);
            view.setContentDescription(Words.of(context, attachment));
            if (isImage) {
                view.getLayoutParams().height = heightOf(attachment, view.getLayoutParams());
                thumbnails.show((ImageView) view, attachment);
            } else {
                ((TextView) view.findViewById(R.id.label)).setText(Words.of(context, attachment));
            }
            media.addView(view);
        }
    }

    /** The picture's own proportions, within reason: the row has its height before the picture is decoded. */
    private static int heightOf(Attachment picture, ViewGroup.LayoutParams view) {
        double height = view.width * (double) picture.height / Math.max(1, picture.width);
        return (int) Math.max(view.width * LOWEST_PICTURE, Math.min(height, view.width * HIGHEST_PICTURE));
    }

    private void showAnswer(View row, Entry entry, boolean isLast) {
        TextView text = (TextView) row.findViewById(R.id.text);
        boolean isWaiting = entry.text.isEmpty() && entry.status == Entry.Status.WRITING;
        text.setText(isWaiting ? context.getString(R.string.answer_waiting) : entry.text);
        text.setContentDescription(context.getString(R.string.model_said, text.getText()));
        text.setVisibility(text.length() == 0 ? View.GONE : View.VISIBLE);
        TextView note = (TextView) row.findViewById(R.id.note);
        note.setText(note(entry));
        note.setVisibility(note.length() == 0 ? View.GONE : View.VISIBLE);
        int color = entry.status == Entry.Status.FAILED ? R.color.trouble : R.color.text_quiet;
        note.setTextColor(context.getColor(color));
        View retry = row.findViewById(R.id.retry);
        boolean isUnfinished = entry.status != Entry.Status.DONE && entry.status != Entry.Status.WRITING;
        retry.setVisibility(isLast && isUnfinished && canRetry ? View.VISIBLE : View.GONE);
        retry.setOnClickListener(onRetry);
    }

    private String note(Entry entry) {
        switch (entry.status) {
            case STOPPED:
                String stopped = context.getString(R.string.answer_stopped);
                return entry.detail.isEmpty() ? stopped : stopped + "\n" + entry.detail;
            case INTERRUPTED:
                return context.getString(R.string.answer_interrupted);
            case FAILED:
                return Words.of(context, entry.trouble, entry.detail);
            default:
                return entry.detail;
        }
    }
}
