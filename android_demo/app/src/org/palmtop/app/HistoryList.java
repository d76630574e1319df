package org.palmtop.app;

import android.content.Context;
import android.text.format.DateUtils;
import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.BaseAdapter;
import android.widget.TextView;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.History;

/** The chats on the phone as rows of the list. */
final class HistoryList extends BaseAdapter {
    /** Listener for what is pressed in a row. */
    interface Listener {
        void onOpen(History.Item item);

        void onDelete(History.Item item);
    }

    private final Context context;
    private final Listener listener;
    private List<History.Item> items = new ArrayList<History.Item>();

    HistoryList(Context context, Listener listener) {
        this.context = context;
        this.listener = listener;
    }

    void show(List<History.Item> now) {
        items = now;
        notifyDataSetChanged();
    }

    @Override
    public int getCount() {
        return items.size();
    }

    @Override
    public History.Item getItem(int position) {
        return items.get(position);
    }

    @Override
    public long getItemId(int position) {
        return position;
    }

    @Override
    public View getView(int position, View old, ViewGroup parent) {
        View row = old != null ? old : LayoutInflater.from(context).inflate(R.layout.item_chat, parent, false);
        final History.Item item = items.get(position);
        String title = title(item);
        ((TextView) row.findViewById(R.id.name)).setText(title);
        ((TextView) row.findViewById(R.id.facts)).setText(facts(item));
        View open = row.findViewById(R.id.open);
        open.setContentDescription(context.getString(R.string.do_open_named, title));
        open.setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                listener.onOpen(item);
            }
        });
        View delete = row.findViewById(R.id.delete);
        delete.setContentDescription(context.getString(R.string.do_delete_named, title));
        delete.setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                listener.onDelete(item);
            }
        });
        return row;
    }

    private String title(History.Item item) {
        Attachment attachment = item.attachment();
        if (item.isDamaged) {
            return context.getString(R.string.history_damaged);
        }
        return item.title().isEmpty() && attachment != null ? Words.of(context, attachment) : item.title();
    }

    private String facts(History.Item item) {
        int flags = DateUtils.FORMAT_SHOW_DATE | DateUtils.FORMAT_SHOW_TIME | DateUtils.FORMAT_ABBREV_MONTH;
        String when = DateUtils.formatDateTime(context, item.changedMillis, flags);
        if (item.isDamaged) {
            return when;
        }
        int count = item.entries.size();
        String size = context.getResources().getQuantityString(R.plurals.history_messages, count, count);
        String line = context.getString(R.string.models_line, when, size);
        return item.isOpen ? context.getString(R.string.models_line, line, context.getString(R.string.history_open)) : line;
    }
}
